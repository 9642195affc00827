//! The inverse of [`coding`](crate::coding): dense weights again, for tools that want them.
//!
//! The values are those that the graph rebuilds, whatever codec made it: the decoding nodes are evaluated as the
//! constants that they are, so nothing here knows a codec.

use half::f16;
use ndarray::Array3;

use crate::coding::{NOTE, common};
use crate::error::{Error, ErrorKind, Result};
use crate::onnx::{ElementType, Model, Rewriter, TensorProto, tensor};
use crate::recurrent::{self, FindOptions, Source};

/// The model with every coded W and R as one dense constant.
///
/// # Errors
/// `NothingToDo` if no weight is coded; as [`recurrent::find`].
pub fn expand(model: &Model) -> Result<Model> {
    let survey = recurrent::find(model, &FindOptions::default())?;
    let mut result = model.clone();
    let mut rewriter = Rewriter::new(&mut result);
    let mut expanded = false;
    for weight in survey.weights.iter().filter(|w| is_coded(survey.source(w))) {
        let source = survey.source(weight);
        let name = rewriter.fresh(&format!("{}/dense", source.value));
        let dense = dense(&name, source.element, &source.values(model)?)?;
        rewriter.add_constant(&common(&survey, &weight.uses), dense);
        for used in &weight.uses {
            let node = &survey.nodes[used.node];
            rewriter.set_input(&node.scope, node.index, used.matrix.input(), &name);
        }
        expanded = true;
    }
    if !expanded {
        return Err(Error::new(ErrorKind::NothingToDo, "nothing to expand: no weight in this model is coded"));
    }
    rewriter.remove_metadata(NOTE);
    rewriter.finish()?;
    Ok(result)
}

/// Whether a weight is rebuilt from a dictionary: it comes from integers, which no exporter makes weights of.
pub fn is_coded(source: &Source) -> bool {
    source.constants.iter().any(|c| c.element == ElementType::Int8)
}

fn dense(name: &str, element: ElementType, values: &Array3<f32>) -> Result<TensorProto> {
    let flat: Vec<f32> = values.iter().copied().collect();
    match element {
        ElementType::Float => Ok(tensor::float(name, values.shape(), &flat)),
        ElementType::Float16 => {
            let half: Vec<_> = flat.into_iter().map(f16::from_f32).collect();
            Ok(tensor::float16(name, values.shape(), &half))
        }
        other => {
            Err(Error::new(ErrorKind::Unsupported, format!("weights of type {other:?} are not supported"))
                .at_tensor(name))
        }
    }
}
