"""Files: ensembles, checkpoints, models, locks. Import from the modules, so that a light one does not load a heavy one."""
