"""The report of a training, simulated or deployed: ``report.json`` and the page that shows it."""
