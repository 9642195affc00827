//! A plan as a TOML file, to be read, edited and applied again.
//!
//! Every site is named by its place (node, tensor, direction, gate), so that a file fits the model that it was made for
//! and any other with the same layers, whatever their weights. Reading checks that each site is named exactly once.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::dictionary::{ATOMS, MAX_WIDTH};
use crate::error::{Error, ErrorKind, Result};
use crate::plan::{Choice, CodecSettings, Plan};
use crate::sites::{PerSite, Site, SitePlace, Sites};

/// The version of the format.
const VERSION: u32 = 1;

/// The comment on top of a plan. `projection`: whether there is one in it.
fn header(projection: bool) -> String {
    let bands = match projection {
        true => {
            "# bands    of codec \"projection\", a list for each dictionary: [atoms, numbers of an atom in one index, numbers of\n\
             #          a row of codes in one index].\n"
        }
        false => "",
    };
    format!(
        "# A plan of dirnet: how each unit is stored. A unit is one gate of the matrix W or R of a\n\
         # recurrent node, or the weight of another node.\n\
         # codec    \"block\": a codebook; \"dense\": the weights stay unchanged (width, atoms and sharing are then passed over).\n\
         # width    weights in an atom, 1 to {MAX_WIDTH}: 8 / width bits per weight, plus row scales and the codebook.\n\
         # atoms    entries of the codebook, always {ATOMS}.\n\
         # sharing  units that share the codebook: \"unit\" (only this one), \"matrix\", \"node\" or \"model\".\n\
         # sensitivity  loss at the outputs per unit of distortion; weights the units that share a codebook.\n\
         {bands}# Apply with: dirnet compress MODEL -o OUT --plan FILE\n"
    )
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    version: u32,
    unit: Vec<Entry>,
}

/// One site: its place, then what is stored.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    node: String,
    tensor: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    direction: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    gate: String,
    codec: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    width: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    atoms: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    sharing: Option<String>,
    /// The bands of each projection dictionary, each as `[atoms, width of the pieces of an atom, width of the pieces of a
    /// row of codes]`.
    #[serde(skip_serializing_if = "Option::is_none")]
    bands: Option<Vec<Vec<[u16; 3]>>>,
    /// Weights the sites that share a codebook; if absent, all count by their energy.
    #[serde(skip_serializing_if = "Option::is_none")]
    sensitivity: Option<f64>,
}

/// The text of a plan.
///
/// # Errors
/// If a name cannot be written as TOML.
pub fn write(sites: &Sites, plan: &Plan) -> Result<String> {
    let entry = |site: &Site| {
        let (choice, sensitivity) = (plan.choices[site.id], plan.sensitivity[site.id]);
        let SitePlace { node, tensor, direction, gate } = sites.place(site);
        let CodecSettings { codec, width, atoms, sharing, bands } = choice.settings();
        let sensitivity = Some(sensitivity);
        Entry { node, tensor, direction, gate, codec, width, atoms, sharing, bands, sensitivity }
    };
    let unit: Vec<Entry> = sites.all.iter().map(entry).collect();
    let header = header(unit.iter().any(|entry| entry.bands.is_some()));
    let body = toml::to_string(&File { version: VERSION, unit })
        .map_err(|error| Error::new(ErrorKind::Usage, format!("the plan cannot be written: {error}")))?;
    Ok(header + &commented(&body, sites, plan))
}

/// The units, each under a comment with its shape and bytes.
fn commented(body: &str, sites: &Sites, plan: &Plan) -> String {
    const UNIT: &str = "[[unit]]\n";
    let dense = sites.map(|site| sites.dense_bytes(site.id));
    let bytes = plan.payload(sites, &dense);
    let mut units = body.split(UNIT);
    let mut text = units.next().unwrap_or_default().to_owned();
    for (site, unit) in sites.all.iter().zip(units) {
        let [rows, columns] = site.block.shape();
        let bits = bytes[site.id] as f64 * 8.0 / site.block.weights().max(1) as f64;
        text += &format!("# {rows} x {columns}: {} bytes, {bits:.2} bits a weight\n{UNIT}{unit}", bytes[site.id]);
    }
    text
}

/// Reads the plan for some weights from its text. A site without a sensitivity takes that of `usual`.
///
/// # Errors
/// [`ErrorKind::Usage`] for a text that is not a plan, or not one for these weights, naming the site.
pub fn read(text: &str, sites: &Sites, usual: &PerSite<f64>) -> Result<Plan> {
    let file: File = toml::from_str(text).map_err(|error| {
        let line = error.span().and_then(|span| text.get(..span.start)).map_or(0, |head| head.matches('\n').count());
        usage(format!("line {}: {}", line + 1, error.message().trim()))
    })?;
    if file.version != VERSION {
        return Err(usage(format!("plan of version {}, expected {VERSION}", file.version)));
    }
    let mut planned: BTreeMap<SitePlace, (Choice, Option<f64>)> = BTreeMap::new();
    for entry in file.unit {
        let Entry { node, tensor, direction, gate, codec, width, atoms, sharing, bands, sensitivity } = entry;
        // Who writes "dense" over another codec means that and nothing else.
        let is_dense = codec == Choice::Dense.settings().codec;
        let settings = match is_dense {
            true => Choice::Dense.settings(),
            false => CodecSettings { codec, width, atoms, sharing, bands },
        };
        let choice = Choice::of_settings(&settings).map_err(|message| usage(message).at_node(&node))?;
        if let Some(sensitivity) = sensitivity.filter(|s| !(*s > 0.0 && s.is_finite())) {
            return Err(usage(format!("sensitivity {sensitivity}, expected a number above 0")).at_node(&node));
        }
        let place = SitePlace { node, tensor, direction, gate };
        if let Some((place, _)) = planned.get_key_value(&place) {
            return Err(usage(format!("{place} is in the plan twice")));
        }
        planned.insert(place, (choice, sensitivity));
    }
    let (mut choices, mut sensitivities) = (Vec::new(), Vec::new());
    for site in &sites.all {
        let place = sites.place(site);
        let found = planned.remove(&place).ok_or_else(|| usage(format!("there is no [[unit]] for {place}")));
        let (choice, sensitivity) = found?;
        check(choice, site, sites)?;
        choices.push(choice);
        sensitivities.push(sensitivity.unwrap_or(usual[site.id]));
    }
    let plan = Plan { choices: choices.into(), sensitivity: sensitivities.into() };
    match planned.into_keys().next() {
        Some(place) => Err(usage(format!("the model has no weights {place}"))),
        None => Ok(plan),
    }
}

/// Checks that a choice is one for this site.
fn check(choice: Choice, site: &Site, sites: &Sites) -> Result<()> {
    let Choice::Projection { parts } = choice else { return Ok(()) };
    if sites.grid(site.id).is_some() {
        let place = sites.place(site);
        return Err(usage(format!(
            "{place} is of integers, which codec = \"projection\" does not code: use block or dense"
        )));
    }
    let sections = sites.sections(site.id);
    let given = parts.iter().filter(|part| !part.is_empty()).count();
    if given != sections.len() {
        let (expected, place) = (sections.len(), sites.place(site));
        return Err(usage(format!("{place} has bands of {given} dictionaries, expected {expected}")));
    }
    match sections.iter().zip(&parts).find(|(section, part)| part.atoms() > section.columns) {
        Some((section, part)) => Err(usage(format!(
            "{} has {} atoms, expected at most {}, the length of its input vectors",
            sites.place(site),
            part.atoms(),
            section.columns
        ))),
        None => Ok(()),
    }
}

fn usage(message: String) -> Error {
    Error::new(ErrorKind::Usage, message)
}
