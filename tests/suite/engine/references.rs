//! What onnxruntime 1.32 gives for the first sample of each real model, or after 20 steps of its first stream.

/// A model, what it is run on, and for each output its root mean square and its first, middle and last element.
pub struct Reference {
    pub model: &'static str,
    pub samples: &'static str,
    pub carry: &'static [&'static str],
    pub outputs: &'static [(&'static str, [f64; 4])],
}

pub const STEPS: usize = 20;

pub const REFERENCES: &[Reference] = &[
    Reference {
        model: "charlm/lstm256.onnx",
        samples: "charlm/calibration.npz",
        carry: &[],
        outputs: &[("logits", [4.555827e+00, 4.533811e-02, 1.493512e+00, -7.661186e+00])],
    },
    Reference {
        model: "charlm/gru256.onnx",
        samples: "charlm/calibration.npz",
        carry: &[],
        outputs: &[("logits", [3.939819e+00, 2.498763e+00, 1.060658e+00, -4.982675e+00])],
    },
    Reference {
        model: "tract_byte_bilstm/model.onnx",
        samples: "tract_byte_bilstm/model.calibration.npz",
        carry: &[],
        outputs: &[("output", [6.086167e+00, -3.090367e+00, 1.784161e+00, -2.019716e+00])],
    },
    Reference {
        model: "g2p_id/encoder_model.onnx",
        samples: "g2p_id/encoder_model.calibration.npz",
        carry: &[],
        outputs: &[
            ("lstm", [4.562752e-01, -5.574503e-04, -1.243578e-02, 2.510820e-01]),
            ("lstm_1", [4.081906e+00, -1.765137e+00, -3.356091e-01, 2.569067e-01]),
        ],
    },
    Reference {
        model: "g2p_id/decoder_model.onnx",
        samples: "g2p_id/decoder_model.calibration.npz",
        carry: &[],
        outputs: &[
            ("dense", [1.758374e-01, 1.342977e-13, 3.708612e-13, 8.225175e-17]),
            ("lstm_1", [3.933752e-01, -9.982389e-03, -5.678424e-04, -2.618936e-02]),
            ("lstm_1_1", [3.521612e+00, -1.754761e+00, -1.381280e-01, -5.725622e-01]),
        ],
    },
    Reference {
        model: "dtln_pytorch/model_p1.onnx",
        samples: "dtln_pytorch/model_p1.calibration.npz",
        carry: &["h1_in=out_state1[0:1]", "c1_in=out_state1[1:2]", "h2_in=out_state1[2:3]", "c2_in=out_state1[3:4]"],
        outputs: &[
            ("y1", [3.566427e-01, 2.806983e-01, 1.986836e-02, 8.918268e-03]),
            ("out_state1", [1.587680e+00, -2.109674e-01, 2.934162e-01, 3.563429e-01]),
        ],
    },
    Reference {
        model: "dtln_pytorch/model_p2.onnx",
        samples: "dtln_pytorch/model_p2.calibration.npz",
        carry: &["h1_in=out_state2[0:1]", "c1_in=out_state2[1:2]", "h2_in=out_state2[2:3]", "c2_in=out_state2[3:4]"],
        outputs: &[
            ("y", [1.716083e-03, 2.125613e-03, -1.832300e-03, 7.441151e-04]),
            ("out_state2", [1.325426e+00, 1.908398e-01, -4.199271e-01, -2.031949e-01]),
        ],
    },
    Reference {
        model: "silero_vad_v4/silero_vad.onnx",
        samples: "silero_vad_v4/silero_vad.calibration.npz",
        carry: &["h=hn", "c=cn"],
        outputs: &[
            ("output", [9.958371e-01, 9.958371e-01, 9.958371e-01, 9.958371e-01]),
            ("hn", [5.292233e-01, 1.120897e-02, 4.142071e-02, 7.431285e-02]),
            ("cn", [2.465442e+00, 5.458704e-01, 4.148523e-02, 1.009182e-01]),
        ],
    },
    Reference {
        model: "silero_vad_v5/silero_vad.onnx",
        samples: "silero_vad_v5/silero_vad.calibration.npz",
        carry: &["state=stateN"],
        outputs: &[
            ("output", [9.999614e-01, 9.999614e-01, 9.999614e-01, 9.999614e-01]),
            ("stateN", [9.728544e-01, -4.174898e-01, -9.397996e-01, -1.139716e+00]),
        ],
    },
    Reference {
        model: "silero_vad_v5_op15/silero_vad_16k_op15.onnx",
        samples: "silero_vad_v5_op15/silero_vad_16k_op15.calibration.npz",
        carry: &["state=stateN"],
        outputs: &[
            ("output", [9.999614e-01, 9.999614e-01, 9.999614e-01, 9.999614e-01]),
            ("stateN", [9.728544e-01, -4.174898e-01, -9.397996e-01, -1.139716e+00]),
        ],
    },
    Reference {
        model: "gtcrn_stream/gtcrn_simple.onnx",
        samples: "gtcrn_stream/gtcrn_simple.calibration.npz",
        carry: &["conv_cache=conv_cache_out", "tra_cache=tra_cache_out", "inter_cache=inter_cache_out"],
        outputs: &[
            ("enh", [5.682025e-03, -1.180568e-01, 4.786277e-04, 1.094947e-04]),
            ("conv_cache_out", [7.210072e-01, 1.161876e+00, -8.309049e-03, 2.910480e-01]),
            ("tra_cache_out", [5.154301e-01, -6.194237e-01, -2.884585e-01, -6.730685e-01]),
            ("inter_cache_out", [5.082682e-01, -8.391120e-01, 4.884954e-01, 4.240445e-02]),
        ],
    },
    Reference {
        model: "pose_gru/gru_model.onnx",
        samples: "pose_gru/gru_model.calibration.npz",
        carry: &[],
        outputs: &[("output", [5.765523e-01, 5.956489e-11, 2.585582e-16, 2.004949e-13])],
    },
    Reference {
        model: "amp_lstm24/model.onnx",
        samples: "amp_lstm24/model.calibration.npz",
        carry: &["hin=hout", "cin=cout"],
        outputs: &[
            ("y", [2.328771e-01, -1.185012e-01, -1.530102e-01, 2.039744e-01]),
            ("hout", [4.574297e-01, -1.359479e-01, 4.651880e-01, -8.259816e-04]),
            ("cout", [6.571940e+00, -1.968964e-01, 3.098743e+00, -8.695885e-03]),
        ],
    },
    Reference {
        model: "tashkeel_gru96/model.onnx",
        samples: "tashkeel_gru96/model.calibration",
        carry: &[],
        outputs: &[
            ("output", [7.019453e+00, 7.000000e+00, 1.100000e+01, 7.000000e+00]),
            ("onnx::ArgMax_5596", [2.547775e-01, 1.012861e-10, 5.232174e-13, 4.010187e-05]),
        ],
    },
    Reference {
        model: "tashkeel_qdq/model.onnx",
        samples: "tashkeel_qdq/model.calibration",
        carry: &[],
        outputs: &[
            ("output", [7.019453e+00, 7.000000e+00, 1.100000e+01, 7.000000e+00]),
            ("onnx::ArgMax_2259", [2.568300e-01, 1.391734e-16, 9.390674e-13, 2.507844e-03]),
        ],
    },
];
