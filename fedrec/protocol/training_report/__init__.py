"""The schema of ``report.json``: a training ends with it; bundles, comparisons and audits read it."""
