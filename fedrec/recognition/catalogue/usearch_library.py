"""Load the package usearch, for the other modules.

Its binary brings a C++ standard library, whose symbols become those of the whole process on Linux. ONNX
Runtime crashes when it is loaded after it (usearch 2.26, ONNX Runtime 1.32), and not when it is loaded first.

Its compiled module is used directly: the Python objects around its answers cost 0.04 ms a search.
"""

from __future__ import annotations

from importlib.util import find_spec

from fedrec.recognition.extra import require_packages

require_packages("usearch", purpose="Searching a catalogue")
if find_spec("onnxruntime") is not None:
    import onnxruntime as _  # noqa: F401

from usearch.compiled import Index, MetricKind, ScalarKind, exact_search  # noqa: E402

__all__ = ["Index", "MetricKind", "ScalarKind", "exact_search"]
