"""report.html: its words, its numbers, and what a browser makes of it."""

# ruff: noqa: RUF001  (the page is typeset: true minus signs, dashes and Greek letters)

from __future__ import annotations

import json
import os
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from chromium import Chromium, find_chromium
from report_runs import autoregressive, make_run

from latflow.app.report import write_report
from latflow.app.report.comparison import Cost, break_even, cost_table, observable_table
from latflow.app.report.numbers import alongside, duration, label, percent, significant, uncertain
from latflow.app.report.run_data import load_run
from latflow.app.report.series import autocorrelation, common_edges, stuck_stretches, thin
from latflow.errors import FileError

FAST = {"train": 180.0, "sample": 4.0, "measure": 1.0, "baseline": 20.0}


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> Path:
    """One gauge and one scalar run, complete; tests that damage a run copy it first."""
    root = tmp_path_factory.mktemp("runs")
    write_report(make_run(root / "u1"))
    write_report(make_run(root / "phi4", theory="phi4"))
    return root


@pytest.fixture(scope="module")
def pages(runs) -> dict[str, str]:
    return {name: (runs / name / "report.html").read_text("utf-8") for name in ("u1", "phi4")}


def words(page: str) -> str:
    """The text of a page without its drawings."""
    return re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", re.sub(r"<svg.*?</svg>|<style>.*?</style>", "", page, flags=re.DOTALL)))


def test_numbers_are_written_as_physicists_write_them():
    assert uncertain(0.697812, 0.00034) == "0.69781(34)"
    assert uncertain(0.69781, 0.0996) == "0.70(10)"
    assert uncertain(-12.345, 1.24) == "−12.3(1.2)"
    assert uncertain(1234.4, 56.0) == "1,234(56)"
    assert uncertain(0.5, None) == "0.5" and uncertain(float("nan"), 0.1) == "–" and uncertain(None) == "–"
    assert alongside(0.6977746, 0.00034) == "0.697775"
    assert uncertain(605.9786617, 1e-12) == alongside(605.9786617, 1e-12) == "605.979" and uncertain(0.0, 0.0) == "0"
    assert significant(1239.7) == "1,240" and significant(0.0021449) == "0.00214" and significant(2.5e-7, 2) == "2.5 × 10⁻⁷"
    assert duration(0.417) == "0.42 s" and duration(192) == "3 min 12 s" and duration(3 * 3600 + 305) == "3 h 05 min"
    assert duration(np.float32(99.97)) == "1 min 40 s"
    assert percent(0.996) == "99.6 %" and percent(0.62) == "62 %" and percent(0.004) == "0.4 %"
    assert label("wilson_loop_2x3") == "Wilson loop 2×3" and label("my_own") == "my own"


def test_autocorrelation_of_a_known_process():
    memory = 0.8
    found = autocorrelation(autoregressive(np.random.default_rng(3), (20000, 4), memory))
    assert found is not None
    exact = 0.5 * (1 + memory) / (1 - memory)
    assert found.tau_int_error < 0.1 * exact
    assert abs(found.tau_int - exact) < 5 * found.tau_int_error
    near = found.lags <= 10
    assert np.all(np.abs(found.rho[near] - memory ** found.lags[near].astype(float)) < 5 * found.error[near] + 1e-12)
    assert autocorrelation(np.ones((100, 2))) is None
    assert autocorrelation(np.full((100, 1), np.nan)) is None


def test_series_tools():
    assert list(stuck_stretches(np.array([True, False, False, True, True, False]))) == [2, 1]
    assert stuck_stretches(np.ones(5, bool)).size == 0
    assert thin(10, 20).tolist() == list(range(10))
    assert len(thin(10_000, 300)) <= 300 and np.all(np.diff(thin(10_000, 300)) == 34)
    assert np.allclose(common_edges([np.array([-1.0, 2.0]), np.array([0.0])]), [-1.5, -0.5, 0.5, 1.5, 2.5])


def test_page_holds_every_part_in_order(pages):
    for name, page in pages.items():
        text = words(page)
        order = ["observables", "cost", "training", "loss", "ess", "weights", "scatter", "metropolis", "acceptance", "stuck"]
        order += ["history", "autocorrelation", "distributions", "correlators", "time", "provenance"]
        positions = [re.search(rf'id="{part}[-"]', page).start() for part in order]
        assert positions == sorted(positions), name
        assert "latflow run" in text and "Resolved configuration" in text
    assert "0.6213(61)" in pages["u1"] and "of 4,096 proposals" in pages["u1"]
    assert "exact 33.21480" in pages["u1"] and "no closed form known" in pages["phi4"]
    assert "U(1) gauge theory in 2 dimensions, 8 × 8, β = 2" in words(pages["u1"])
    assert "φ⁴ theory in 2 dimensions, 8 × 8, m² = −4, λ = 6.008" in words(pages["phi4"])


def test_page_is_self_contained_small_and_reproducible(runs, pages, tmp_path):
    for page in pages.values():
        assert len(page.encode()) < 1_500_000
        assert not re.search(r"(?:src|href|url)\s*[=(]\s*[\"']?(?:https?:|//)", page)
        assert "<script" not in page and "@import" not in page
        ids = re.findall(r'\bid="([^"]+)"', page)
        assert len(ids) == len(set(ids))
        targets = set(re.findall(r'href="#([^"]+)"', page)) | set(re.findall(r"url\(#([^)]+)\)", page))
        assert targets <= set(ids)
        assert "#01020" not in page  # every stand-in colour has become a variable of the page
        assert page.count("<figure>") == page.count('role="img" aria-label="') >= 14
    copy = shutil.copytree(runs / "u1", tmp_path / "u1")
    assert write_report(copy).read_text("utf-8") == pages["u1"]
    assert not list(copy.glob("*.partial"))


def test_text_from_files_is_escaped(runs, tmp_path):
    copy = shutil.copytree(runs / "u1", tmp_path / "run")
    config = (copy / "config.toml").read_text()
    (copy / "config.toml").write_text(config.replace("a gauge-equivariant flow", "<script>alert(1)</script>"))
    for name in ("train.jsonl", "ensemble.h5", "baseline.h5"):
        (copy / name).unlink()
    page = write_report(copy).read_text("utf-8")
    assert "<script" not in page and page.count("&lt;script&gt;alert(1)&lt;/script&gt;") == 2


def test_disagreement_is_flagged(tmp_path):
    run = load_run(make_run(tmp_path / "off", shift=4.5, samples=512))
    table = observable_table(run)
    plaquette = next(row for row in table.rows if row.key == "plaquette")
    assert plaquette.flow.flagged and plaquette.flow.pull == "+4.5σ"
    assert table.verdict.startswith("2 of ") and "differ by more than 3σ" in table.verdict  # plain and reweighted
    assert sum(row.flow.flagged for row in table.rows) == 1
    assert "two_point" not in [row.key for row in table.rows]


def test_a_frozen_baseline_is_named_as_the_one_that_is_wrong(tmp_path):
    table = observable_table(load_run(make_run(tmp_path / "frozen", frozen=True)))
    assert table.verdict.startswith("The flow agrees with the exact results: all ")
    assert "The HMC chains do not: " in table.verdict and "it is HMC that is wrong" in table.verdict


def test_break_even_counts_training():
    flow = Cost(setup=100.0, draw=1.0, steps=1000, slowest="q", tau=1.0, frozen=False)
    slow = Cost(setup=0.0, draw=10.0, steps=1000, slowest="q", tau=1.0, frozen=False)
    number = break_even(flow, slow)
    assert number is not None
    assert np.isclose(flow.setup + number / flow.rate, number / slow.rate)
    assert break_even(slow, flow) is None


@pytest.mark.parametrize(
    ("seconds", "arguments", "verdict"),
    [
        ({}, {"samples": 2048}, "The flow wins at this size, training included: "),
        ({"train": 36000.0}, {}, "As run here the baseline wins: "),
        ({"baseline": 0.01}, {}, "The baseline wins at this size: "),
        ({}, {"frozen": True}, "The flow wins at this size: the HMC chains never changed topological charge Q"),
        ({"train": 0.0}, {"trained": False}, "The exact sampler wins at this size: "),
        ({}, {"baseline": False}, "No timed baseline belongs to this run"),
    ],
)
def test_verdict_says_which_sampler_wins(tmp_path, seconds, arguments, verdict):
    run = load_run(make_run(tmp_path / "run", seconds=FAST | seconds, **{"samples": 512, **arguments}))
    table = cost_table(run)
    assert table.verdict.startswith(verdict)
    assert table.short.startswith(verdict.split(":")[0].rstrip(": "))


def test_exact_sampler_without_training(tmp_path):
    text = words(
        write_report(make_run(tmp_path / "exact", trained=False, samples=512, seconds=FAST | {"train": 0.28})).read_text(
            "utf-8"
        )
    )
    assert "Nothing was trained" in text and "All weights agree" in text and "never stuck" in text
    assert "exact sampler" in text and "nothing to pay back" in text and "0.28 s" not in text


def test_unfinished_run_says_what_is_missing(runs, tmp_path):
    copy = shutil.copytree(runs / "u1", tmp_path / "run")
    for name in ("observables.json", "ensemble.h5", "baseline.h5", "report.html"):
        (copy / name).unlink()
    text = words(write_report(copy).read_text("utf-8"))
    assert "No ensemble has been drawn yet" in text and "Loss" in text
    assert "Nothing has been compared yet" in text and "There is no chain to analyse yet" in text
    for name in ("train.jsonl", "config.toml", "provenance.json"):
        (copy / name).unlink()
    assert "theory not recorded" in words(write_report(copy).read_text("utf-8"))
    with pytest.raises(FileError, match="there is no run directory"):
        write_report(tmp_path / "nowhere")


def test_damaged_files_become_notices(runs, tmp_path):
    copy = shutil.copytree(runs / "u1", tmp_path / "run")
    content = (copy / "baseline.h5").read_bytes()
    (copy / "baseline.h5").write_bytes(content[: len(content) // 2])
    (copy / "provenance.json").write_text('{"device": ')
    data = json.loads((copy / "observables.json").read_text())
    data["description"]["latflow"]["ess"] = None
    data["description"]["latflow"]["observables"]["plaquette"]["error"] = "much"
    (copy / "observables.json").write_text(json.dumps(data))
    text = words(write_report(copy).read_text("utf-8"))
    assert "baseline.h5 could not be read" in text and "provenance.json could not be read" in text
    assert "Topological charge Q" in text and "Effective sample size" in text


needs_browser = pytest.mark.skipif(
    find_chromium() is None and not os.environ.get("CI"), reason="no Chromium is installed (set CHROMIUM to its path)"
)


@needs_browser
def test_page_in_a_browser(runs, tmp_path):
    executable = find_chromium()
    assert executable, "CI is set, so a Chromium must be installed"
    overflowing = "document.documentElement.scrollWidth > document.documentElement.clientWidth"
    squeezed = """Array.from(document.querySelectorAll('figure, table, pre, dl')).filter(
        e => !e.closest('.scroll, details') && e.getBoundingClientRect().right > innerWidth + 1).length"""
    background = "getComputedStyle(document.documentElement).backgroundColor"
    ink = "getComputedStyle(document.querySelector('.drawing text')).fill"
    curve = "Array.from(document.querySelectorAll('#loss path, figure path')).map(e => getComputedStyle(e).stroke)"
    with Chromium(executable, tmp_path / "profile") as browser:
        seen = set()
        for name, width, dark in (("u1", 390, False), ("u1", 1200, True), ("phi4", 390, True), ("phi4", 1200, False)):
            page = runs / name / "report.html"
            browser.open(page, width, dark=dark)
            browser.evaluate("document.querySelectorAll('details').forEach(each => each.open = true)")
            assert browser.evaluate("document.querySelectorAll('figure svg').length") >= 14
            assert not browser.evaluate(overflowing), (name, width)
            assert browser.evaluate(squeezed) == 0, (name, width)
            assert browser.evaluate("document.querySelectorAll('.drawing')[0].getBoundingClientRect().height") > 150
            seen.add((dark, browser.evaluate(background), browser.evaluate(ink)))
            strokes = browser.evaluate(curve)
            assert "rgb(31, 102, 179)" in strokes if not dark else "rgb(116, 179, 243)" in strokes
            browser.screenshot(tmp_path / f"{name}-{width}.png")
            assert browser.requests() == [page.as_uri()]
            assert browser.complaints() == []
    assert len(seen) == 2 and len({background for _, background, _ in seen}) == 2
