//! A report with something in every part, for the tests of the printers.

use super::{
    Command, FileSizes, KindSizes, LosslessStep, Recurrent, Report, SCHEMA, Seconds, Tool, Tradeoff, Tuning, Unit,
    WeightSizes,
};
use crate::encode::MultiplyAdds;
use crate::loss::{Bin, Figures, Profile};
use crate::verify::{Checked, Verdict, VerifyScope};

fn profile() -> Profile {
    Profile {
        along: "axis 0 (seq)".to_owned(),
        stride: 1,
        rms: vec![0.01, 0.02, 0.015],
        max_abs: vec![0.1, 0.81, 0.2],
        deviation: Some(1.5),
        histogram: vec![Bin { from: 0.01, to: 0.1, count: 90 }, Bin { from: 0.1, to: 1.0, count: 10 }],
        exact: 3,
    }
}

fn unit(node: &str, gate: &str, bits: u64) -> Unit {
    Unit {
        node: node.to_owned(),
        op: "LSTM".to_owned(),
        tensor: "R".to_owned(),
        direction: "forward".to_owned(),
        gate: gate.to_owned(),
        shape: [512, 512],
        codec: "block d=2".to_owned(),
        bits_per_weight: bits as f64,
        bytes_before: 1_048_576,
        bytes_after: 512 * 512 * bits / 8,
        sensitivity: Some(1e-5),
        distortion: Some(20.0),
        energy: Some(5e4),
    }
}

pub(super) fn report() -> Report {
    let node = "encoder\x1b[2J/a/very/deep/scope/that/goes/on/and/on/and/on/for/more/than/a/line/LSTM_1";
    Report {
        schema: SCHEMA,
        tool: Tool::default(),
        command: Command::Compress,
        model: FileSizes {
            path: "model.onnx".to_owned(),
            output: Some("small.onnx".to_owned()),
            output_data: None,
            bytes_before: 13_294_085,
            bytes_after: Some(1_824_000),
            ratio: super::ratio(13_294_085, 1_824_000),
            opset: 17,
            producer: Some("pytorch".to_owned()),
        },
        weights: Some(WeightSizes {
            bytes_before: 4 * 1_048_576,
            bytes_after: 540_000,
            ratio: super::ratio(4 * 1_048_576, 540_000),
            parameters: 4 * 512 * 512,
            kinds: vec![KindSizes { kind: "recurrent", bytes_before: 4 * 1_048_576, bytes_after: 540_000 }],
        }),
        recurrent: Some(Recurrent {
            bytes_before: 4 * 1_048_576,
            bytes_after: 540_000,
            ratio: super::ratio(4 * 1_048_576, 540_000),
            parameters: 4 * 512 * 512,
            multiply_adds: MultiplyAdds { before: 1_048_576, after: 1_048_576, factored: 1_048_576 },
        }),
        smallest_ratio: Some(20.0),
        answer: None,
        predicted_loss: Some(0.0018),
        predicted_range: Some([0.0009, 0.0036]),
        search: None,
        effort: None,
        tradeoff: vec![
            Tradeoff {
                ratio: Some(4.0),
                bytes_after: 4_000_000,
                loss: 0.0001,
                loss_mean: Some(0.0001),
                loss_worst: None,
                measured: false,
            },
            Tradeoff {
                ratio: Some(16.0),
                bytes_after: 1_000_000,
                loss: 0.012,
                loss_mean: Some(0.012),
                loss_worst: None,
                measured: false,
            },
        ],
        settings: Some(serde_json::json!({"codec": "block", "calibrated_on": "16 samples"})),
        tuning: Some(vec![Tuning {
            nodes: vec![node.to_owned(), "b".to_owned()],
            target: "states".to_owned(),
            kept: true,
            before: Some(0.0123),
            after: Some(0.00987),
            steps: Some(250),
            reason: Some("too few samples to hold some out".to_owned()),
        }]),
        units: vec![unit(node, "i", 4), unit(node, "o", 4), unit(node, "f", 2), unit(node, "c", 8)],
        skipped: vec![super::SkippedNode {
            node: "gru".to_owned(),
            op: "GRU".to_owned(),
            reason: "W is computed from an input".to_owned(),
            warning: false,
        }],
        forms: Vec::new(),
        lossless: vec![LosslessStep { step: "equal constants once", bytes: 1_200, exact: true }],
        warnings: vec!["no samples".to_owned()],
        verify: Some(Verdict {
            engine: "tract",
            scope: VerifyScope::Model,
            reason: None,
            samples: 12,
            smoke_test: false,
            calibrated_on: Some("same".to_owned()),
            loss: Some(0.0021),
            loss_worst: Some(0.0021),
            loss_mean: Some(0.0021),
            outputs: vec![Figures {
                name: "logits".to_owned(),
                max_abs: Some(0.81),
                rmse: Some(0.05),
                nmse: Some(0.0021),
                snr_db: Some(26.7),
                cosine: Some(0.99892),
                agreement: Some(0.97913),
                decides: true,
                kl: Some(f64::NAN),
                profile: Some(profile()),
                ..Figures::default()
            }],
            checks: vec![Checked {
                output: "logits".to_owned(),
                check: "min-snr",
                limit: 30.0,
                value: Some(26.7),
                passed: false,
            }],
            unbound: Vec::new(),
            passed: false,
            warnings: Vec::new(),
            failures: vec!["output 'logits': snr 26.7 dB is below --min-snr 30 (by 3.3)".to_owned()],
        }),
        seconds: Seconds { total: 12.3, ..Seconds::default() },
    }
}
