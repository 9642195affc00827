"""OpenCV's dnn module."""

import cv2
import numpy as np

import adapter


def run(model, feeds):
    net = cv2.dnn.readNetFromONNX(model)
    for name, value in feeds.items():
        net.setInput(value, name)
    names = net.getUnconnectedOutLayersNames()
    return {name: np.asarray(value) for name, value in zip(names, net.forward(names))}


cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
adapter.main(run)
