"""The application: configuration, command line, stages and report, built on the library below it."""
