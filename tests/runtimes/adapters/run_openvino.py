"""OpenVINO on the CPU, in float32, as it would reduce the precision by itself on some machines."""

import openvino

import adapter


def run(model, feeds):
    core = openvino.Core()
    compiled = core.compile_model(core.read_model(model), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    outputs = compiled(feeds)
    return {port.get_any_name(): outputs[port] for port in compiled.outputs}


adapter.main(run)
