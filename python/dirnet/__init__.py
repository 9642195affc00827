"""dirnet makes ONNX models several times smaller without retraining, and measures the error.

::

    import dirnet

    small = dirnet.compress("model.onnx", "small.onnx", ratio=8, calibration=feeds, checks={"min_snr": 20})
    print(small.report.model.ratio, small.report.loss)
    small.check(engine="onnxruntime", min_snr=20)

The functions run the ``dirnet`` command that is installed with this module. See docs/python.md.
"""

from ._api import compress, expand, inspect, load, plan, sweep, verify
from ._binary import binary
from ._errors import CheckFailed, DirnetError, DirnetWarning, InputError, JobFailed, MissingPackage, Stopped
from ._model import Compressed, Judgement, Model
from ._report import Figures, Inspection, Report, Sweep, SweepPoint, Verdict

__all__ = [
    "CheckFailed",
    "Compressed",
    "DirnetError",
    "DirnetWarning",
    "Figures",
    "InputError",
    "Inspection",
    "JobFailed",
    "Judgement",
    "MissingPackage",
    "Model",
    "Report",
    "Stopped",
    "Sweep",
    "SweepPoint",
    "Verdict",
    "binary",
    "compress",
    "expand",
    "inspect",
    "load",
    "plan",
    "sweep",
    "verify",
]
