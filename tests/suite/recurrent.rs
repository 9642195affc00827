//! The recurrent nodes of models: every one is found, and W and R are what is behind them: of made models the numbers that
//! their constants were made from, of real ones what ONNX's reference evaluator makes of these. `recurrent_weights.tsv`
//! holds its checksums, in the order in which nodes are found.

use std::collections::BTreeMap;
use std::path::Path;

use dirnet::error::{ErrorKind, Result};
use dirnet::onnx::{LoadOptions, Model};
use dirnet::recurrent::{Direction, FindOptions, Matrix, Survey, find};

use crate::broken;
use crate::corpus::{beside_models, models};
use crate::made::{self, made};

fn survey_with(path: &Path, options: &FindOptions) -> Result<(Model, Survey)> {
    let model = Model::load(path, &LoadOptions::default())?;
    let survey = find(&model, options)?;
    Ok((model, survey))
}

fn survey(path: &Path) -> (Model, Survey) {
    survey_with(path, &FindOptions { recurrent_only: true, ..FindOptions::default() }).unwrap_or_else(|e| panic!("{e}"))
}

/// Sum, sum weighted by position (so that the order counts), and sum of squares.
fn sums(values: &ndarray::Array3<f32>) -> [f64; 3] {
    let n = values.len() as f64;
    values.iter().enumerate().fold([0.0; 3], |[a, b, c], (i, &v)| {
        let v = f64::from(v);
        [a + v, b + v * (i + 1) as f64 / n, c + v * v]
    })
}

#[test]
fn nodes_and_values_of_made_models() {
    for made in made::ALL {
        let (model, survey) = survey(&made.path());
        let mut found: Vec<&str> = survey.nodes.iter().map(|node| &*node.name).collect();
        let mut known = made.nodes();
        found.sort_unstable();
        known.sort_unstable();
        assert_eq!(found, known, "{}: {:?}", made.name, survey.skipped);
        for (node, matrix) in survey.nodes.iter().flat_map(|n| Matrix::BOTH.map(|m| (n, m))) {
            let values = node.source(matrix).values(&model).unwrap();
            assert_eq!(*values, made.weight(&node.name, &matrix.to_string()), "{}: {}/{matrix}", made.name, node.name);
        }
    }
}

#[test]
fn nodes_and_values_of_real_models() {
    let Some(models) = models() else { return };
    let mut expected: BTreeMap<&str, Vec<Vec<&str>>> = BTreeMap::new();
    for line in include_str!("recurrent_weights.tsv").lines().filter(|l| !l.starts_with('#')) {
        let mut fields = line.split('\t');
        let rows = expected.entry(fields.next().expect("a model")).or_default();
        rows.push(fields.collect());
    }
    for (name, rows) in expected {
        let (model, survey) = survey(&models.join(name));
        assert!(survey.skipped.is_empty(), "{name}: {:?}", survey.skipped);
        let found: Vec<_> = survey.nodes.iter().flat_map(|n| Matrix::BOTH.map(|m| (n, m))).collect();
        let rows: Vec<_> = rows.into_iter().filter(|r| r[0] != "-").collect();
        assert_eq!(found.len(), rows.len(), "{name}: matrices found");
        for ((node, matrix), row) in found.into_iter().zip(rows) {
            let place = format!("{name}: {}/{matrix}", node.name);
            assert_eq!((&*node.name, node.cell.operator(), &*matrix.to_string()), (row[0], row[1], row[2]), "{place}");
            let source = node.source(matrix);
            assert_eq!(source.shape.map(|d| d.to_string()).join("x"), row[3], "{place}");
            let values = source.values(&model).unwrap_or_else(|e| panic!("{place}: {e}"));
            let size = values.iter().map(|v| f64::from(v.abs())).sum::<f64>();
            for (found, wanted) in sums(&values).into_iter().zip(&row[4..]) {
                let wanted: f64 = wanted.parse().expect("a checksum");
                assert!((found - wanted).abs() <= 1e-8 * size.max(wanted.abs()), "{place}: {found} is not {wanted}");
            }
        }
    }
}

#[test]
fn weights_are_followed_out_of_bodies_and_told_once() {
    let of = |name: &str| survey(&made(name).path()).1;
    let branches = of("branches");
    assert_eq!(branches.nodes.len(), 4);
    for node in &branches.nodes {
        assert_eq!(node.bodies, ["If", "If"]);
        assert_eq!(node.w.route, "Unsqueeze(Concat(3 x Slice(Constant node of the outer graph)))");
    }
    assert_eq!(branches.weights.len(), 2, "all four read one W and one R");
    assert!(branches.weights.iter().all(|w| w.uses.len() == 4));
    assert_eq!(branches.stored_bytes(), 4 * 16 * (6 + 4));

    let twins = of("twins");
    assert_eq!((twins.nodes.len(), twins.weights.len()), (4, 4), "byte-identical in pairs");
    assert!(twins.weights.iter().all(|w| w.uses.len() == 2));
    assert_eq!(twins.stored_bytes(), 2 * 4 * 16 * (6 + 4 + 4 + 4), "but stored twice");

    for (name, body) in [("loop", "Loop"), ("scan", "Scan")] {
        assert!(of(name).nodes.iter().all(|node| node.bodies == [body]), "{name}");
        assert_eq!(of(name).nodes[0].r.route, "initializer of the outer graph", "{name}");
    }
    for name in ["split", "joined"] {
        assert_eq!(of(name).nodes[0].w.route, "external data");
        assert_eq!(of(name).stored_bytes(), 4 * 12 * (6 + 4));
    }
    let half = of("half");
    assert_eq!((&*half.nodes[0].w.route, half.stored_bytes()), ("Cast(initializer)", 2 * 16 * (6 + 4)));
    let indirect = of("indirect");
    let routes: Vec<&str> = indirect.nodes.iter().flat_map(|n| [&*n.w.route, &*n.r.route]).collect();
    assert_eq!(
        routes,
        ["Transpose(initializer)", "Identity(initializer)", "Concat(2 x initializer)", "Identity(initializer)"]
    );
}

#[test]
fn weights_of_real_models_are_followed_out_of_bodies_and_told_once() {
    let Some(models) = models() else { return };
    let (_, five) = survey(&models.join("silero_vad_v5/silero_vad.onnx"));
    assert_eq!(five.nodes[0].bodies, ["If", "If"]);
    assert_eq!(five.nodes[0].w.route, "Unsqueeze(Concat(3 x Slice(Constant node of the outer graph)))");
    assert_eq!(five.weights.len(), 4, "two LSTMs, each in the then and the else branch");
    assert_eq!(five.stored_bytes(), 4 * 512 * 128 * 4);

    let (_, four) = survey(&models.join("silero_vad_v4/silero_vad.onnx"));
    assert_eq!((four.nodes.len(), four.weights.len()), (8, 8), "byte-identical in pairs");
    assert!(four.weights.iter().all(|w| w.uses.len() == 2));
    assert_eq!(four.stored_bytes(), 16 * 256 * 64 * 4, "but stored twice");

    let (_, looped) = survey(&models.join("derived/dtln_p1_loop/model.onnx"));
    assert_eq!(looped.nodes[0].bodies, ["Loop"]);
    let (_, external) = survey(&models.join("derived/g2p_encoder_external_per_tensor/model.onnx"));
    assert_eq!(external.nodes[0].w.route, "external data");
    let (_, half) = survey(&models.join("derived/dtln_p1_fp16_cast/model.onnx"));
    assert_eq!(half.nodes[0].w.route, "Cast(initializer)");
    assert_eq!(half.stored_bytes(), 2 * 512 * (257 + 128 + 128 + 128));
    let (_, indirect) = survey(&models.join("derived/tract_byte_indirect/model.onnx"));
    let routes: Vec<&str> = indirect.nodes.iter().flat_map(|n| [&*n.w.route, &*n.r.route]).collect();
    assert_eq!(
        routes,
        ["Transpose(initializer)", "Identity(initializer)", "Concat(2 x initializer)", "Identity(initializer)"]
    );
}

/// Of [`crate::attributes`], which has more of them.
#[test]
fn attributes_of_the_cases_beside_real_models_are_read_as_written() {
    let Some(cases) = beside_models("rnn_cases") else { return };
    let node = |name: &str| {
        let (_, mut survey) = survey(&cases.join(name).join("model.onnx"));
        assert_eq!(survey.nodes.len(), 1, "{name}");
        survey.nodes.remove(0)
    };
    assert_eq!(node("lstm_reverse").attributes.direction, Direction::Reverse);
    assert_eq!(node("lstm_bidi").attributes.activations.len(), 6);
    assert_eq!(node("gru_clip").attributes.clip, Some(0.3));
    assert!(node("gru_lbr").attributes.linear_before_reset);
    assert!(node("lstm_iforget").attributes.input_forget);
    assert_eq!(node("gru_act").attributes.activations[0].name(), "HardSigmoid");
    assert_eq!(node("gru_act").attributes.activations[0].alpha, 0.2);
    assert!(node("lstm_seqlen").reads.sequence_lens);
    assert!(!node("lstm_plain").reads.sequence_lens);
}

#[test]
fn weights_that_are_graph_inputs_or_quantised_are_not_compressed() {
    let reasons = |path: &Path| {
        let (_, survey) = survey(path);
        assert!(survey.nodes.is_empty());
        survey.skipped.into_iter().map(|skipped| skipped.reason).collect::<Vec<_>>()
    };
    for name in ["given", "numbered"] {
        assert_eq!(
            reasons(&made::fixture(&format!("graphs/{name}/model.onnx"))),
            ["W is graph input 'W'; R is graph input 'R'"]
        );
    }
    let (_, survey) = survey(&made("vendor").path());
    let [skipped] = &survey.skipped[..] else { panic!("one is not: {:?}", survey.skipped) };
    assert!(skipped.reason.starts_with("already quantised (com.microsoft.DynamicQuantizeLSTM): "), "{skipped:?}");
    // What a DequantizeLinear makes of integers is the floats that the node reads.
    let [node] = &survey.nodes[..] else { panic!("one is: {:?}", survey.nodes) };
    assert_eq!((&*node.name, &*node.w.route), ("static", "DequantizeLinear(initializer)"));
}

#[test]
fn weights_of_real_models_that_are_graph_inputs_are_not_compressed() {
    let Some(models) = models() else { return };
    let mut seen = 0;
    for entry in std::fs::read_dir(models.join("onnx_node_tests")).expect("the folder of operator tests") {
        let path = entry.expect("an entry").path().join("model.onnx");
        if !path.is_file() {
            continue;
        }
        let (_, survey) = survey(&path);
        assert!(survey.nodes.is_empty());
        let reason = &survey.skipped[0].reason;
        assert_eq!(reason, "W is graph input 'W'; R is graph input 'R'");
        seen += 1;
    }
    assert_eq!(seen, 9);
}

#[test]
fn unusual_and_broken_nodes() {
    let bad = broken::folder();
    let run = |name: &str| {
        survey_with(&bad.join(name).join("model.onnx"), &FindOptions { recurrent_only: true, ..FindOptions::default() })
    };
    let counts = |name: &str| {
        let (_, survey) = run(name).unwrap_or_else(|e| panic!("{e}"));
        (survey.nodes.len(), survey.skipped)
    };
    assert_eq!(counts("ok").0, 1);
    assert_eq!(counts("all_zero_W").0, 1);
    assert_eq!(counts("bomb_constantofshape_32GB").0, 1, "the bomb is not on the way to a weight");
    assert_eq!(counts("custom_domain"), (0, vec![]));
    let (none, nan) = counts("nan_inf_weights");
    assert!(none == 0 && nan[0].warning && nan[0].reason == "W holds NaN or infinite values", "{nan:?}");
    assert!(counts("contrib_lstm").1[0].reason.starts_with("already quantised"));
    let broken = [
        ("R_shape_mismatch", "tensor 'R'"),
        ("W_not_4H", "tensor 'W'"),
        ("hidden_absent", "hidden_size"),
        ("hidden_mismatch", "hidden_size 9"),
        ("hidden_neg", "-8"),
        ("dims_negative", "'W'"),
        ("dims_overflow", "'W'"),
        ("dims_overflow_wrap", "'W'"),
        ("dtype_999", "999"),
        ("raw_short", "'W'"),
        ("raw_long", "'W'"),
    ];
    for (name, wanted) in broken {
        let error = run(name).map(|(_, survey)| survey).expect_err(name);
        let line = error.to_string();
        assert!(line.contains(wanted) && !line.contains('\n'), "{name}: '{line}' does not tell of {wanted}");
        assert_eq!(error.kind(), ErrorKind::Malformed, "{name}: {line}");
    }
}
