"""ONNX's own ReferenceEvaluator, in numpy."""

from onnx.reference import ReferenceEvaluator

import adapter


def run(model, feeds):
    evaluator = ReferenceEvaluator(model)
    return dict(zip(evaluator.output_names, evaluator.run(None, feeds)))


adapter.main(run)
