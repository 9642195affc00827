"""onnx.checker as a service for corruption.rs.

A request on stdin is a line with a number of bytes, then that many bytes of a model; the answer is a line, 'ok' or what
the checker says. Needs the package onnx.
"""
import sys

import onnx

stdin = sys.stdin.buffer
while line := stdin.readline():
    data = stdin.read(int(line))
    try:
        onnx.checker.check_model(data)
        answer = "ok"
    except Exception as error:  # whatever it is, it is the answer
        answer = " ".join(str(error).split())[:300] or type(error).__name__
    print(answer, flush=True)
