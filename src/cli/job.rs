//! What `compress`, `plan` and `sweep` have in common: everything between the flags and a plan.

use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::Result;
use clap::{Args, ValueEnum, ValueHint};
use dirnet::coding::{Weights, Writing};
use dirnet::compress::{Coded, Job, SCALES, Tried};
use dirnet::encode::{self, Request};
use dirnet::engine::Engine;
use dirnet::error::{Error, ErrorKind};
use dirnet::expand;
use dirnet::loss::{Judge, LossSpec, Reference};
use dirnet::onnx::Model;
use dirnet::onnx::model::side_path;
use dirnet::pins::Pins;
use dirnet::plan::{Choice, Plan};
use dirnet::planner::{self, Curves, Rates, Sizing};
use dirnet::progress::Progress;
use dirnet::recurrent::Survey;
use dirnet::report::{self, Outcome, Tradeoff};
use dirnet::search::{self, Found};
use dirnet::tune::{self, TuneReport};

use super::args::{self, Limits, Nodes, Output, Run, Samples, Target};
use super::config::{self, Overrides};
use super::guard::{self, Guarded};
use super::samples::Inputs;

/// The ratio of the smallest file that a search for a loss looks at, and how many it looks at.
const SMALLEST: f64 = 40.0;
const LOOKS: usize = 9;
/// The share of a plan's loss that one rate for all has to come down to. With few samples two ways of coding the same plan
/// differ by almost as much, and what is a little better on them is not on others.
const RIVAL: f64 = 0.5;
/// The ratios whose losses a report predicts.
const FORECAST: [f64; 6] = [4.0, 6.0, 8.0, 12.0, 16.0, 24.0];

/// The flags.
#[derive(Args)]
pub struct Flags {
    /// An ONNX file; it is never changed
    #[arg(value_name = "MODEL", value_hint = ValueHint::FilePath, help_heading = "Arguments")]
    pub model: PathBuf,
    #[command(flatten)]
    pub samples: Samples,
    #[command(flatten)]
    pub how: How,
    #[command(flatten)]
    pub nodes: Nodes,
    #[command(flatten)]
    pub limits: Limits,
    #[command(flatten)]
    pub run: Run,
}

/// The files of a job besides the model and the samples.
#[derive(Clone, Copy)]
pub struct Files<'a> {
    /// What it writes, besides reports.
    pub written: Option<&'a Path>,
    /// A plan that it reads.
    pub plan: Option<&'a Path>,
    /// What it shows.
    pub output: &'a Output,
}

impl Files<'_> {
    /// Refuses outputs that cannot be written, or would replace one another or a file that is read.
    fn check(&self, flags: &Flags, model: &Model) -> Result<()> {
        if let Some(file) = self.written {
            model.check_target(file)?;
        }
        self.output.check(self.written, &[model])?;
        let read = flags.samples.files().chain(&flags.run.config).map(PathBuf::as_path).chain(self.plan);
        args::check_apart(self.outputs(), read)
    }

    fn outputs(&self) -> impl Iterator<Item = &Path> {
        self.written.into_iter().chain(self.output.report.iter().map(PathBuf::as_path))
    }
}

impl Flags {
    /// What is run, and within which limits. `layers`: whether the job can be done without running the model.
    pub fn guarded(&self, files: &Files<'_>, layers: bool) -> Guarded<'_> {
        let side = files.written.map(side_path);
        Guarded {
            limits: self.limits,
            original: &self.model,
            compressed: None,
            layers,
            outputs: files.outputs().map(Path::to_owned).chain(side).collect(),
            quiet: files.output.quiet,
        }
    }
}

/// How budgets are made.
#[derive(Args)]
#[command(next_help_heading = "How")]
pub struct How {
    /// What runs the result: any runtime, any that has Scan and int8 products, or onnxruntime only
    #[arg(long, value_enum, value_name = "FORM", default_value_t = Form::Portable)]
    pub form: Form,
    /// Hidden size from which a layer takes another form than portable [default: where it was measured to pay]
    #[arg(long, value_name = "H")]
    pub form_from: Option<usize>,
    /// What weights are coded with
    #[arg(long, value_enum, value_name = "CODEC", default_value_t = Codec::Block)]
    pub codec: Codec,
    /// What decides the bytes of a unit
    #[arg(long, value_enum, value_name = "KIND", default_value_t = Sensitivity::Measured)]
    pub sensitivity: Sensitivity,
    /// Move atoms, scales and biases until the layers do what the original's do; the size stays [default: fast with samples, else off]
    #[arg(long, value_enum, value_name = "EFFORT")]
    pub tune: Option<Tune>,
    /// Steps of the tuning, in place of what the effort says
    #[arg(long, value_name = "N")]
    pub tune_steps: Option<usize>,
}

/// How recurrent nodes are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Form {
    /// LSTM and GRU stay, their weights are rebuilt at load: runs everywhere, as fast as before
    Portable,
    /// Loops of int8 products in standard operators: several times faster in onnxruntime where layers are large
    Fast,
    /// onnxruntime's own quantised LSTM; GRU as in fast
    Ort,
}

impl How {
    /// How much is spent on tuning: something only where there are samples, unless it was asked for.
    fn effort(&self, inputs: &Inputs) -> Tune {
        self.tune.unwrap_or(if inputs.calibrated_on == "random" { Tune::Off } else { Tune::Fast })
    }

    /// The form that is asked for.
    pub fn request(&self) -> Request {
        let form = match self.form {
            Form::Portable => encode::Form::Portable,
            Form::Fast => encode::Form::Fast,
            Form::Ort => encode::Form::Ort,
        };
        Request { form, from: self.form_from }
    }
}

/// What weights are coded with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Codec {
    /// Pieces of rows as indices into codebooks
    Block,
    /// Rows as codes of atoms that all weights share that multiply the same vector: R of a layer and W of the next
    Projection,
    /// What is better of the two, for each stack of layers
    Auto,
}

impl Codec {
    /// The word for it on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Codec::Block => "block",
            Codec::Projection => "projection",
            Codec::Auto => "auto",
        }
    }
}

/// How much is spent on tuning.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Tune {
    /// Nothing
    Off,
    /// About as much as on everything else
    Fast,
    /// Codes too, until it stops paying
    Full,
}

/// How it is found out what an error in a unit costs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Sensitivity {
    /// Run the model with one unit coarse at a time; budgets follow
    Measured,
    /// From the derivatives of the gates in each layer; no runs besides the calibration
    Local,
    /// One rate for all units
    None,
}

impl Sensitivity {
    /// The word for it on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Sensitivity::Measured => "measured",
            Sensitivity::Local => "local",
            Sensitivity::None => "none",
        }
    }
}

/// A model and its samples, read and checked.
pub struct Setup {
    pub model: Model,
    pub inputs: Inputs,
    pub loss: LossSpec,
    /// What the user should know so far.
    pub warnings: Vec<String>,
    /// Seconds that reading took.
    pub seconds: f64,
    path: PathBuf,
    survey: Survey,
    /// What the configuration says of single units.
    pub pins: Pins,
    /// None if the engine cannot run the model; then each layer is calibrated by itself.
    engine: Option<Engine>,
    /// Why there is no engine.
    reason: Option<Error>,
}

impl Setup {
    /// Reads and checks everything that the flags name; outputs that cannot be written are refused before anything takes
    /// long.
    pub fn read(flags: &Flags, target: &Target, overrides: &Overrides, files: &Files<'_>) -> Result<Setup> {
        let start = Instant::now();
        flags.run.start()?;
        let path = flags.model.clone();
        let model = flags.run.load(&path)?;
        files.check(flags, &model)?;
        let loss = flags.samples.loss()?;
        let options = flags.nodes.options(overrides)?;
        // A model without anything to compress needs no samples to be told so.
        let survey = Weights::find(&model, &options).map_err(|error| error.in_file(&path))?;
        config::check(overrides, &survey)?;
        let pins = config::pins(overrides, &survey)?;
        if survey.weights.iter().any(|weight| expand::is_coded(&model, survey.source(weight))) {
            let message = "its weights are coded already: compress the original, or what 'dirnet expand' makes of it";
            return Err(Error::new(ErrorKind::NothingToDo, message).in_file(path).into());
        }
        let mut inputs = flags.samples.inputs(&model)?;
        if target.max_loss.is_some() {
            inputs.hold_back();
        }
        Judge::new(&model, &loss, &inputs.holdout.carry)?;
        let mut warnings = inputs.warnings.clone();
        if report::made_by(&model).is_some() {
            warnings.push("the file was compressed before and folded back to dense: take the original".to_owned());
        }
        let faulty = survey.skipped.iter().filter(|skipped| skipped.warning);
        warnings.extend(faulty.map(|skipped| format!("node '{}' is left alone: {}", skipped.node, skipped.reason)));
        let (engine, reason) = match guard::refused().map_or_else(|| Engine::new(&model), Err) {
            Ok(engine) => (Some(engine), None),
            Err(error) if cannot_run(&error) => (None, Some(error)),
            Err(error) => return Err(error.in_file(path).into()),
        };
        let seconds = start.elapsed().as_secs_f64();
        Ok(Setup { model, inputs, loss, warnings, seconds, path, survey, pins, engine, reason })
    }

    /// Runs the original on all samples, and nothing else: whether that can be done is all that is asked.
    pub fn probe(&self) -> Result<()> {
        let engine = Engine::new(&self.model)?;
        let judge = self.judge()?;
        for samples in [&self.inputs.calibration, &self.inputs.holdout] {
            judge.reference(&engine, samples)?;
        }
        Ok(())
    }

    /// Refuses a target that cannot be met before anything is run for it.
    pub fn check_target(&self, flags: &Flags, target: &Target) -> Result<()> {
        // How small a projection dictionary can be depends on what the samples say.
        if target.max_loss.is_some() || flags.how.codec != Codec::Block {
            return Ok(());
        }
        let weights = Weights::of(&self.model, self.survey.clone(), self.engine.as_ref())?;
        let writing = self.writing(flags);
        let sizing = Sizing { model: &self.model, weights: &weights, scales: SCALES, writing: &writing };
        let one_rate = self.engine.is_none() || flags.how.sensitivity == Sensitivity::None;
        let pin = |plan: &mut Plan| self.pins.apply(plan);
        Ok(planner::check_target(&sizing, bytes(&sizing, target), one_rate, pin).map_err(|e| e.in_file(&self.path))?)
    }

    fn writing(&self, flags: &Flags) -> Writing {
        Writing { request: flags.how.request(), note: note(flags, self) }
    }

    /// Calibrates.
    pub fn study<'a>(&'a self, flags: &Flags, progress: &dyn Progress) -> Result<Study<'a>> {
        let calibrate = |engine: Option<&Engine>| {
            let weights = Weights::of(&self.model, self.survey.clone(), engine)?;
            let calibration = engine.map(|engine| (engine, &self.inputs.calibration));
            Job::new(&self.model, weights, calibration, flags.samples.seed, progress)
        };
        let mut warnings = self.warnings.clone();
        let whole = self.engine.as_ref().ok_or(self.reason.as_ref());
        let (engine, mut job) = match whole.map(|engine| (engine, calibrate(Some(engine)))) {
            Ok((engine, Ok(job))) => (Some(engine), job),
            Ok((_, Err(error))) if !cannot_run(&error) => return Err(error.in_file(&self.path).into()),
            Ok((_, Err(error))) => (None, self.without_outputs(&error, calibrate, &mut warnings)?),
            Err(Some(error)) => (None, self.without_outputs(error, calibrate, &mut warnings)?),
            Err(None) => (None, calibrate(None)?),
        };
        warnings.append(&mut job.warnings);
        job.writing = self.writing(flags);
        let effort = match flags.how.effort(&self.inputs) {
            Tune::Off => None,
            Tune::Fast => Some(tune::Effort::Fast),
            Tune::Full => Some(tune::Effort::Full),
        };
        let steps = flags.how.tune_steps;
        let tune = effort.map(|effort| tune::Options { effort, steps, seed: flags.samples.seed });
        // What is tuned to noise is not tuned to anything.
        let random = self.inputs.calibrated_on == "random";
        if tune.is_some() && (engine.is_none() || random) {
            let why = if random { "there are no samples" } else { "the model cannot be run" };
            warnings.push(format!("not tuned: {why}"));
        }
        let tune = tune.filter(|_| !random);
        Ok(Study {
            job,
            warnings,
            setup: self,
            engine,
            kind: flags.how.sensitivity,
            codec: flags.how.codec,
            budgets: None,
            tune,
            tuned: None,
            looks: Vec::new(),
        })
    }

    /// Calibrates a model of which not all can be run: on what of it runs, else on noise.
    fn without_outputs<'a>(
        &'a self,
        reason: &Error,
        calibrate: impl Fn(Option<&Engine>) -> dirnet::error::Result<Job<'a>>,
        warnings: &mut Vec<String>,
    ) -> Result<Job<'a>> {
        // What ran into a limit must not be tried again.
        let part = match reason.kind() {
            ErrorKind::Engine => Engine::partial(&self.model, &self.inputs.calibration),
            _ => None,
        };
        if let Some(Ok(job)) = part.as_ref().map(|engine| calibrate(Some(engine))) {
            warnings.push(without_all(reason));
            return Ok(job);
        }
        warnings.push(without_engine(reason));
        Ok(calibrate(None)?)
    }

    /// Frees what runs the original.
    pub fn release_engine(&mut self) {
        self.engine = None;
    }

    fn judge(&self) -> Result<Judge> {
        Ok(Judge::new(&self.model, &self.loss, &self.inputs.calibration.carry)?)
    }
}

/// A calibrated model, of which plans can be made.
pub struct Study<'a> {
    pub job: Job<'a>,
    pub warnings: Vec<String>,
    setup: &'a Setup,
    engine: Option<&'a Engine>,
    kind: Sensitivity,
    codec: Codec,
    budgets: Option<(Curves, Vec<f64>)>,
    tune: Option<tune::Options>,
    tuned: Option<TuneReport>,
    /// Sizes that a search for a loss looked at.
    looks: Vec<(u64, f64)>,
}

impl Study<'_> {
    /// The best plan for a file of at most `target` bytes; where it is to be tuned fully, the one that is best then.
    pub fn plan(&mut self, target: u64, progress: &dyn Progress) -> Result<Plan> {
        let best = self.untuned(target, progress)?;
        let full = self.tune.is_some_and(|tune| tune.effort == tune::Effort::Full && tune.steps.is_none());
        let (Some(engine), Some((curves, sensitivity)), true) = (self.engine, &self.budgets, full) else {
            return Ok(best);
        };
        // Only what follows from sensitivities alone can be judged again by them.
        if self.codec != Codec::Block || !self.setup.pins.is_empty() || best.sensitivity != *sensitivity {
            return Ok(best);
        }
        let allocate = |job: &Job<'_>, moved: &[f64]| curves.allocate(&job.sizing(), moved, target);
        let judged = (engine, &self.setup.inputs.calibration, &self.setup.judge()?);
        let plan = self.job.tuned_plan(best, curves, judged, allocate, progress);
        Ok(plan.map_err(|error| error.in_file(&self.setup.path))?)
    }

    /// The best plan before tuning.
    fn untuned(&mut self, target: u64, progress: &dyn Progress) -> Result<Plan> {
        let Some(engine) = self.engine.filter(|_| self.kind != Sensitivity::None) else {
            progress.phase("allocate", 0);
            let plan = self.blind(target);
            progress.done();
            return plan;
        };
        if self.budgets.is_none() {
            let rates = if self.codec == Codec::Projection { Rates::Coarse } else { Rates::All };
            let curves = self.job.curves(self.bits(target), rates, progress)?;
            let samples = &self.setup.inputs.calibration;
            let sensitivity = match self.kind {
                Sensitivity::Local => self.job.local_sensitivity(),
                _ => self.job.sensitivity(&curves, engine, samples, &self.setup.judge()?, progress)?,
            };
            self.budgets = Some((curves, sensitivity));
        }
        progress.phase("allocate", 0);
        let budgets = self.budgets.as_ref().expect("made just now");
        let codecs: &[Codec] = match self.codec {
            Codec::Auto => &[Codec::Block, Codec::Auto, Codec::Projection],
            Codec::Block => &[Codec::Block],
            Codec::Projection => &[Codec::Projection],
        };
        // A codec that cannot reach the target is no candidate, as long as another can.
        let (mut plans, mut failure) = (Vec::new(), None);
        for &codec in codecs {
            match self.budgeted(codec, budgets, target) {
                Ok(plan) if plans.contains(&plan) => {}
                // Block codes are divided best by those who look at nothing else.
                Ok(plan) if codec == Codec::Auto && !plans.is_empty() && !projects(&plan) => {}
                Ok(plan) => plans.push(plan),
                Err(error) => failure = failure.or(Some(error)),
            }
        }
        let uniform = self.blind(target).ok().filter(|_| self.kind == Sensitivity::Measured);
        progress.done();
        let mut plans = plans.into_iter();
        let Some(mut best) = plans.next() else { return Err(failure.expect("no plan without an error")) };
        let judge = self.setup.judge()?;
        let samples = &self.setup.inputs.calibration;
        for plan in plans {
            best = self.job.better(best, (plan, wins), engine, samples, &judge, progress)?;
        }
        if let Some(uniform) = uniform {
            best = self.job.better(best, (uniform, wins_by_far), engine, samples, &judge, progress)?;
        }
        Ok(best)
    }

    /// A plan without knowing what matters: all units alike.
    fn blind(&self, target: u64) -> Result<Plan> {
        let (sizing, equal) = (self.job.sizing(), self.job.equal());
        let at = |error: Error| error.in_file(&self.setup.path);
        if self.codec == Codec::Projection {
            let dictionaries = self.job.dictionaries(&equal).map_err(at)?;
            return Ok(self
                .setup
                .pins
                .fit(&sizing, target, |target| dictionaries.allocate(&sizing, None, target))
                .map_err(at)?);
        }
        Ok(self.setup.pins.fit(&sizing, target, |target| planner::uniform(&sizing, &equal, target)).map_err(at)?)
    }

    /// The plan of least predicted loss with a codec.
    fn budgeted(&self, codec: Codec, (curves, sensitivity): &(Curves, Vec<f64>), target: u64) -> Result<Plan> {
        let sizing = self.job.sizing();
        let at = |error: Error| error.in_file(&self.setup.path);
        if codec == Codec::Block {
            let plan = self.setup.pins.fit(&sizing, target, |target| curves.allocate(&sizing, sensitivity, target));
            return Ok(plan.map_err(at)?);
        }
        let dictionaries = self.job.dictionaries(sensitivity).map_err(at)?;
        let rivals = (codec == Codec::Auto).then_some(curves);
        Ok(self.setup.pins.fit(&sizing, target, |target| dictionaries.allocate(&sizing, rivals, target)).map_err(at)?)
    }

    /// A plan from a file, unless it contradicts what the configuration says of a gate.
    pub fn agreed(&self, plan: Plan) -> dirnet::error::Result<Plan> {
        let Some(unit) = self.setup.pins.contradicted(&plan) else { return Ok(plan) };
        let name = &self.job.weights.units[unit].unit;
        let message = format!("{name} is stored in another way than [nodes] of the configuration says: change one");
        Err(Error::new(ErrorKind::Usage, message))
    }

    /// Learns the codes of a plan, tunes them if that was asked for, and builds the model.
    pub fn make(&mut self, plan: Plan, progress: &dyn Progress) -> Result<Coded> {
        let mut coded = self.code(plan, progress)?;
        self.tune(&mut coded, progress)?;
        Ok(coded)
    }

    fn code(&mut self, plan: Plan, progress: &dyn Progress) -> Result<Coded> {
        Ok(self.job.code(plan, progress).map_err(|e| e.in_file(&self.setup.path))?)
    }

    fn tune(&mut self, coded: &mut Coded, progress: &dyn Progress) -> Result<()> {
        if let (Some(options), Some(engine)) = (self.tune, self.engine) {
            let samples = &self.setup.inputs.calibration;
            let judge = self.setup.judge()?;
            self.tuned = Some(self.job.tune(coded, engine, samples, &judge, &options, progress)?);
        }
        Ok(())
    }

    /// The loss that measured sensitivities predict for these distortions.
    pub fn predicted_loss(&self, distortion: &[f64]) -> Option<f64> {
        let (_, sensitivity) = self.budgets.as_ref().filter(|_| self.kind == Sensitivity::Measured)?;
        Some(sensitivity.iter().zip(distortion).map(|(s, d)| s * d).sum())
    }

    /// What tuning did, if it ran.
    pub fn tuned(&self) -> Option<&TuneReport> {
        self.tuned.as_ref()
    }

    /// The largest file that will do.
    pub fn bytes(&self, target: &Target) -> u64 {
        bytes(&self.job.sizing(), target)
    }

    /// The smallest model whose loss on samples held back from the calibration stays at or under `bound`.
    ///
    /// Tuning takes far longer than coding, and takes about the same share off the loss at all sizes: the search is on
    /// coded models, once for the bound and once for what tuning makes of the bound, and only its ends are tuned.
    pub fn within(&mut self, bound: f64, progress: &dyn Progress) -> Result<Coded> {
        let Some(engine) = self.engine else {
            let message = "--max-loss needs the model to be run, and it cannot be; use --ratio or --max-size";
            return Err(Error::new(ErrorKind::Engine, message).into());
        };
        let judge = self.setup.judge()?;
        let inputs = &self.setup.inputs;
        let held = judge.reference(engine, inputs.search.as_ref().unwrap_or(&inputs.calibration))?;
        let (found, mut coded) = self.search(&held, bound, progress)?;
        if self.tune.is_none() {
            return Ok(coded);
        }
        self.tune(&mut coded, progress)?;
        let gain = loss_of(&coded, &held)? / found.loss;
        if gain < 1.0 && gain > 0.0 {
            let tuned = self.tuned.take();
            let (_, mut smaller) = self.search(&held, bound / gain, progress)?;
            self.tune(&mut smaller, progress)?;
            if loss_of(&smaller, &held)? <= bound {
                return Ok(smaller);
            }
            self.tuned = tuned;
        }
        Ok(coded)
    }

    /// The smallest model that is within the bound before tuning.
    fn search(&mut self, held: &Reference<'_>, bound: f64, progress: &dyn Progress) -> Result<(Found, Coded)> {
        let mut best: Option<Coded> = None;
        let mut least = f64::INFINITY;
        let mut looks = Vec::new();
        let range = self.job.sizing().target(SMALLEST)..=self.job.model.bytes();
        let found = search::smallest(range, bound, LOOKS, |bytes| {
            let coded = match self.untuned(bytes, progress).and_then(|plan| self.code(plan, progress)) {
                Ok(coded) => coded,
                Err(error) => return cannot_be_had(error),
            };
            let loss = loss_of(&coded, held)?;
            looks.push((coded.model.saved_bytes()?, loss));
            least = least.min(loss);
            if loss <= bound {
                // Each find is smaller than the one before.
                best = Some(coded);
            }
            Ok(loss)
        })?;
        self.looks.append(&mut looks);
        found.zip(best).ok_or_else(|| {
            let message = format!("no plan keeps the loss at or under {bound}; the nearest is --max-loss {least:.3e}");
            Error::new(ErrorKind::Target, message).into()
        })
    }

    /// Sizes and their losses for a report: those that a search looked at, else what sensitivities predict.
    pub fn tradeoff(&self, progress: &dyn Progress) -> Vec<Tradeoff> {
        let before = self.job.weights.survey.stored_bytes();
        let point = |bytes: u64, loss: f64, measured: bool| {
            let ratio = report::ratio(before, (bytes + before).saturating_sub(self.job.model.bytes()));
            Tradeoff { ratio, bytes_after: bytes, loss, measured }
        };
        if !self.looks.is_empty() {
            return self.looks.iter().map(|&(bytes, loss)| point(bytes, loss, true)).collect();
        }
        let Some(budgets) = self.budgets.as_ref().filter(|_| self.kind == Sensitivity::Measured) else {
            return Vec::new();
        };
        let sizing = self.job.sizing();
        let predicted = |ratio: &f64| {
            let plan = self.budgeted(self.codec, budgets, sizing.target(*ratio));
            progress.advance(1);
            let plan = plan.ok()?;
            let loss = self.predicted_loss(&self.promised(&plan)?)?;
            Some(point(sizing.bytes(&plan).ok()?, loss, false))
        };
        progress.phase("forecast", FORECAST.len() as u64);
        let points = FORECAST.iter().filter_map(predicted).collect();
        progress.done();
        points
    }

    /// What a plan came to, or is expected to: the distortions are those of the curves unless they are given.
    pub fn outcome<'o>(&'o self, plan: &'o Plan, bytes: u64, distortion: Option<&'o [f64]>) -> Outcome<'o> {
        let sensitivity = self.budgets.as_ref().map(|(_, sensitivity)| &sensitivity[..]);
        Outcome { plan, bytes, distortion, sensitivity }
    }

    /// The distortion of each unit that the curves and dictionaries promise.
    pub fn promised(&self, plan: &Plan) -> Option<Vec<f64>> {
        let (curves, sensitivity) = self.budgets.as_ref()?;
        let projected = projects(plan).then(|| Some(self.job.dictionaries(sensitivity).ok()?.promised(plan)));
        let projected = match projected {
            Some(promised) => promised?,
            None => Vec::new(),
        };
        let of_unit = |(u, choice): (usize, &Choice)| match choice {
            Choice::Projection { .. } => Some(projected[u]),
            choice => Some(curves.units[u].iter().find(|point| point.choice == *choice)?.distortion),
        };
        plan.choices.iter().enumerate().map(of_unit).collect()
    }

    /// About the bits a weight of a plan for `target` bytes.
    fn bits(&self, target: u64) -> f64 {
        let kept = self.job.model.bytes().saturating_sub(self.job.weights.survey.stored_bytes());
        let weights = self.job.weights.parameters().max(1);
        (target.saturating_sub(kept) as f64 * 8.0 / weights as f64).clamp(1.5, 4.0)
    }
}

/// Whether another codec does better, by runs of the model and by distortions: with few samples, runs alone are luck.
fn wins(ours: Tried, theirs: Tried) -> bool {
    theirs.loss < ours.loss && theirs.predicted < ours.predicted
}

/// Whether one rate for all does better.
fn wins_by_far(ours: Tried, theirs: Tried) -> bool {
    theirs.loss < RIVAL * ours.loss
}

/// Whether a plan has projection dictionaries.
fn projects(plan: &Plan) -> bool {
    plan.choices.iter().any(|choice| matches!(choice, Choice::Projection { .. }))
}

/// The largest file that will do.
fn bytes(sizing: &Sizing<'_>, target: &Target) -> u64 {
    target.max_size.unwrap_or_else(|| sizing.target(target.ratio.unwrap_or(Target::RATIO)))
}

/// The loss of the worst output.
fn loss_of(coded: &Coded, held: &Reference<'_>) -> dirnet::error::Result<f64> {
    held.compare(&Engine::new(&coded.model)?, &dirnet::engine::Overrides::default())?.worst_loss()
}

/// A size without a plan is merely too small; every other failure ends the search.
fn cannot_be_had(error: anyhow::Error) -> dirnet::error::Result<f64> {
    match error.downcast::<Error>() {
        Ok(error) if error.kind() == ErrorKind::Target => Ok(f64::INFINITY),
        Ok(error) => Err(error),
        Err(other) => Err(Error::new(ErrorKind::Usage, other.to_string())),
    }
}

/// What is written into the file about its making. It is part of what the same flags give the same bytes of, so that
/// nothing in it may depend on when or where.
fn note(flags: &Flags, setup: &Setup) -> String {
    serde_json::json!({
        "version": env!("CARGO_PKG_VERSION"),
        "codec": flags.how.codec.name(),
        "form": flags.how.request().form.name(),
        "sensitivity": flags.how.sensitivity.name(),
        "tune": format!("{:?}", flags.how.effort(&setup.inputs)).to_lowercase(),
        "calibrated_on": setup.inputs.origin(),
        "seed": flags.samples.seed,
    })
    .to_string()
}

fn cannot_run(error: &Error) -> bool {
    matches!(error.kind(), ErrorKind::Engine | ErrorKind::Limit)
}

fn without_all(error: &Error) -> String {
    format!(
        "the model cannot be run to its outputs: it is calibrated on the samples as far as it runs, with one rate for all \
         ({error})"
    )
}

fn without_engine(error: &Error) -> String {
    format!("the model cannot be run: layers are calibrated on seeded random inputs, with one rate for all ({error})")
}
