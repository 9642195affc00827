//! A plan as a TOML file, to be read, edited and applied again.
//!
//! Every unit is named by its place (node, tensor, direction, gate), so that a file fits the model that it was made for
//! and any other with the same layers, whatever their weights. Reading checks that each unit is named exactly once.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::coding::{WeightUnit, Weights};
use crate::dictionary::BlockSpec;
use crate::error::{Error, ErrorKind, Result};
use crate::plan::{ATOMS, Choice, Plan, Sharing};

/// The version of the format.
const VERSION: u32 = 1;

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    version: u32,
    unit: Vec<Entry>,
}

/// One unit: its place, then what is stored.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    node: String,
    tensor: String,
    direction: String,
    gate: String,
    codec: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    width: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    atoms: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    sharing: Option<String>,
    /// Weighs units that share a codebook; taken to matter by their energy alike if absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    sensitivity: Option<f64>,
}

/// Node, tensor, direction, gate.
type Place = (String, String, String, String);

fn place(unit: &WeightUnit) -> Place {
    let unit = &unit.unit;
    (unit.node.clone(), unit.matrix.to_string(), unit.direction.name().to_owned(), unit.gate.to_owned())
}

/// The text of a plan.
///
/// # Errors
/// If a name cannot be written as TOML.
pub fn write(weights: &Weights, plan: &Plan) -> Result<String> {
    let entry = |((unit, choice), &sensitivity): ((&WeightUnit, &Choice), &f64)| {
        let (node, tensor, direction, gate) = place(unit);
        let codec = choice.codec().to_owned();
        let (width, atoms, sharing) = match *choice {
            Choice::Dense => (None, None, None),
            Choice::Block { spec, sharing } => (Some(spec.width), Some(spec.atoms), Some(sharing.name().to_owned())),
        };
        let sensitivity = Some(sensitivity);
        Entry { node, tensor, direction, gate, codec, width, atoms, sharing, sensitivity }
    };
    let unit = weights.units.iter().zip(&plan.choices).zip(&plan.sensitivity).map(entry).collect();
    let body = toml::to_string(&File { version: VERSION, unit })
        .map_err(|error| Error::new(ErrorKind::Usage, format!("the plan cannot be written: {error}")))?;
    Ok(format!(
        "# How each unit is stored: width weights to an atom, so many atoms, in a codebook for a unit, matrix, node or\n\
         # the whole model. Leave a unit alone with codec = \"dense\". Apply with: dirnet compress MODEL -o OUT --plan FILE\n\
         {body}"
    ))
}

/// Reads the plan for some weights from its text. A unit without a sensitivity takes that of `usual`.
///
/// # Errors
/// [`ErrorKind::Usage`] for a text that is not a plan, or not one for these weights, naming the unit.
pub fn read(text: &str, weights: &Weights, usual: &[f64]) -> Result<Plan> {
    let file: File = toml::from_str(text).map_err(|error| {
        let line = error.span().and_then(|span| text.get(..span.start)).map_or(0, |head| head.matches('\n').count());
        usage(format!("line {}: {}", line + 1, error.message().trim()))
    })?;
    if file.version != VERSION {
        return Err(usage(format!("plan of version {}, expected {VERSION}", file.version)));
    }
    let mut planned: BTreeMap<Place, (Choice, Option<f64>)> = BTreeMap::new();
    for entry in file.unit {
        let choice = choice(&entry)?;
        if let Some(sensitivity) = entry.sensitivity.filter(|s| !(*s > 0.0 && s.is_finite())) {
            return Err(usage(format!("sensitivity {sensitivity}: it has to be above 0")).at_node(&entry.node));
        }
        let place = (entry.node, entry.tensor, entry.direction, entry.gate);
        if let Some((place, _)) = planned.get_key_value(&place) {
            return Err(usage(format!("{} is planned twice", show(place))));
        }
        planned.insert(place, (choice, entry.sensitivity));
    }
    let units = weights.units.iter().zip(usual).map(|(unit, &usual)| {
        let place = place(unit);
        let found = planned.remove(&place).ok_or_else(|| usage(format!("there is no unit for {}", show(&place))));
        found.map(|(choice, sensitivity)| (choice, sensitivity.unwrap_or(usual)))
    });
    let (choices, sensitivity) = units.collect::<Result<Vec<_>>>()?.into_iter().unzip();
    let plan = Plan { choices, sensitivity };
    match planned.into_keys().next() {
        Some(place) => Err(usage(format!("{} is not among the weights of the model", show(&place)))),
        None => Ok(plan),
    }
}

fn choice(entry: &Entry) -> Result<Choice> {
    let at = |message: String| usage(message).at_node(&entry.node);
    match (entry.codec.as_str(), entry.width, entry.atoms, entry.sharing.as_deref()) {
        ("dense", None, None, None) => Ok(Choice::Dense),
        ("block", Some(width), Some(atoms), Some(sharing)) => {
            let spec = BlockSpec::new(width, atoms).map_err(|error| at(error.to_string()))?;
            if atoms != ATOMS {
                return Err(at(format!("{atoms} atoms: only codebooks of {ATOMS} can be stored")));
            }
            let reach = Sharing::ALL.into_iter().find(|reach| reach.name() == sharing);
            let sharing = reach
                .ok_or_else(|| at(format!("sharing '{sharing}' is unknown, expected unit, matrix, node or model")))?;
            Ok(Choice::Block { spec, sharing })
        }
        ("dense", ..) => Err(at("a dense unit has no width, atoms or sharing".to_owned())),
        ("block", ..) => Err(at("a block unit needs width, atoms and sharing".to_owned())),
        (codec, ..) => Err(at(format!("codec '{codec}' is unknown, expected block or dense"))),
    }
}

fn show((node, tensor, direction, gate): &Place) -> String {
    format!("{node}/{tensor}/{direction}/{gate}")
}

fn usage(message: String) -> Error {
    Error::new(ErrorKind::Usage, message)
}
