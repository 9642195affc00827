"""onnxruntime on the CPU, as an application would make a session; of whatever version the environment has."""

import onnxruntime

import adapter


def run(model, feeds):
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    return dict(zip([output.name for output in session.get_outputs()], session.run(None, feeds)))


adapter.main(run)
