//! `dirnet compress A B ... --out-dir DIR`: several models under one budget of bytes.

use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context, Result, bail};
use dirnet::compress::{self, Compressor};
use dirnet::error::{Error, listed};
use dirnet::onnx::Model;
use dirnet::onnx::model::side_path;
use dirnet::report::{ModelShare, Report};
use dirnet::verify::Check;

use super::args::{self, Samples};
use super::compress::Args;
use super::config::{ModelTable, Overrides};
use super::job::{Files, Setup};
use super::output;
use super::progress::progress;
use crate::process::guard::{self, Guarded};

/// The models of a call, and where their results go.
pub struct Several {
    members: Vec<Member>,
    folder: PathBuf,
}

/// One of the models.
struct Member {
    /// How reports name it.
    name: String,
    file: PathBuf,
    out: PathBuf,
    /// What the configuration says of it.
    table: Option<ModelTable>,
}

/// What becomes of a model.
struct Finished<'a> {
    report: Report,
    model: Model,
    error: Option<Error>,
    out: &'a Path,
}

impl Several {
    /// The models of the command line, or else those of the configuration's tables.
    pub fn of(files: &[PathBuf], folder: &Path, tables: &[ModelTable]) -> Result<Several> {
        let stem = |file: &Path| file.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        let is_of = |table: &&ModelTable, file: &Path| table.file == file || table.name == stem(file);
        let named: Vec<(PathBuf, Option<ModelTable>)> = match files {
            [] => tables.iter().map(|table| (table.file.clone(), Some(table.clone()))).collect(),
            files => {
                files.iter().map(|file| (file.clone(), tables.iter().find(|it| is_of(it, file)).cloned())).collect()
            }
        };
        if named.is_empty() {
            bail!("no models: name them, or give each a table [models.NAME] with its file in the configuration");
        }
        let mut members: Vec<Member> = Vec::with_capacity(named.len());
        for (file, table) in named {
            let Some(name) = file.file_name() else { bail!("{}: is not the name of a file", file.display()) };
            let out = folder.join(name);
            if members.iter().any(|member| member.out == out) {
                bail!("{}: two models have this file name, so that their results would be one file", out.display());
            }
            let name = table.as_ref().map_or_else(|| stem(&file), |table| table.name.clone());
            members.push(Member { name, file, out, table });
        }
        Ok(Several { members, folder: folder.to_owned() })
    }

    /// What is run, and within which limits.
    pub fn guarded(&self, args: &Args) -> Guarded<'static> {
        let files = Files { written: None, plan: None, output: &args.output };
        let names: Vec<String> = self.members.iter().map(|member| member.file.display().to_string()).collect();
        let mut guarded = args.flags.guarded(Path::new(&names.join(", ")), &files, args.no_verify);
        let outs = self.members.iter().map(|member| member.out.clone());
        guarded.outputs.extend(outs.flat_map(|out| [side_path(&out), out]));
        guarded
    }

    /// Divides the bytes, compresses each model to its share, and writes all of them or none.
    pub fn run(&self, args: &Args, overrides: &Overrides, start: Instant) -> Result<()> {
        args.check_verified()?;
        if !overrides.is_empty() {
            bail!("[nodes] of a configuration is for one model, written with -o: remove it, or --out-dir");
        }
        let made = !self.folder.exists();
        std::fs::create_dir_all(&self.folder).map_err(|error| {
            anyhow::anyhow!("{}: cannot be made: {}", self.folder.display(), dirnet::error::words(&error))
        })?;
        let done = self.finish(args, &args.checks.checks(), start);
        if made && done.is_err() {
            // Only if it is empty.
            let _ = std::fs::remove_dir(&self.folder);
        }
        done
    }

    fn finish(&self, args: &Args, checks: &[Check], start: Instant) -> Result<()> {
        args.flags.run.start()?;
        let models = self.members.iter().map(|member| args.flags.run.load(&member.file)).collect::<Result<Vec<_>>>()?;
        args::check_apart(self.members.iter().map(|it| &it.out), self.members.iter().map(|it| &it.file))?;
        self.check_names(args, checks, &models)?;
        let progress = progress(args.output.quiet);
        let mut compressors = Vec::with_capacity(models.len());
        let mut loads = Vec::with_capacity(models.len());
        for (member, model) in self.members.iter().zip(&models) {
            let samples = member.samples(&args.flags.samples, model)?;
            let files = Files { written: Some(&member.out), plan: None, output: &args.output };
            let setup = Setup::of(model, &samples, &args.flags, &Overrides::new(), &files)?;
            loads.push(setup.seconds);
            compressors.push(setup.compressor(model, &*progress)?);
        }
        if guard::is_probe() {
            return Ok(compressors.iter().try_for_each(Compressor::probe)?);
        }
        let weights: Vec<f64> = self.members.iter().map(Member::weight).collect();
        let own: Vec<Vec<Check>> = models.iter().map(|model| own_checks(checks, model)).collect();
        compressors.iter().zip(&own).try_for_each(|(compressor, own)| compressor.check_names(own))?;
        let results = compress::compress_all(&mut compressors, &weights, &args.target.of_library())?;
        let (mut finished, mut shares) = (Vec::with_capacity(models.len()), Vec::with_capacity(models.len()));
        for (index, (mut compressor, (share, result))) in compressors.into_iter().zip(results).enumerate() {
            let mut report = Report::of_compressed(&compressor, &result);
            report.tradeoff = Report::tradeoff(&compressor)?;
            compressor.release();
            let verifying = Instant::now();
            if !args.no_verify {
                let verdict = compressor.verify(&result.model, &own[index])?;
                output::warn(&verdict);
                report.warnings.extend(verdict.warnings.iter().cloned());
                report.verify = Some(verdict);
                report.seconds.verify = Some(verifying.elapsed().as_secs_f64());
            }
            report.seconds.load = Some(loads[index]);
            shares.push(ModelShare::of(self.members[index].name.clone(), weights[index], &share));
            let error = report.failure().map(|error| error.in_file(&self.members[index].file));
            finished.push(Finished { report, model: result.model, error, out: &self.members[index].out });
        }
        let error = finished.iter().find_map(|it| it.error.clone());
        if error.is_none() || args.keep_failed {
            Model::save_all(finished.iter().map(|it| (&it.model, it.out)))?;
            finished.iter_mut().for_each(|it| it.report.written_to(it.out));
        }
        let total = start.elapsed().as_secs_f64();
        let judged = finished.into_iter().map(|Finished { mut report, .. }| {
            report.judge();
            report.seconds.total = total;
            report
        });
        let mut several = dirnet::report::Several::of(judged.collect(), shares);
        several.seconds.total = total;
        args.output.show(&several)?;
        error.map_or(Ok(()), |error| Err(error.into()))
    }

    /// Refuses a flag that names an input or output which no model has.
    fn check_names(&self, args: &Args, checks: &[Check], models: &[Model]) -> Result<()> {
        let samples = &args.flags.samples;
        let streams = samples.stream.iter().filter_map(|text| Some((text.split_once('=')?.0, "--stream")));
        let losses = samples.loss.iter().filter_map(|text| Some((text.rsplit_once(':')?.0, "--loss")));
        let labels = samples.labels.iter().chain(&samples.holdout_labels).map(|(name, _)| (name.as_str(), "--labels"));
        let checked = checks.iter().filter_map(|check| Some((check.output.as_deref()?, check.kind.name())));
        for (name, flag) in streams.chain(losses).chain(labels).chain(checked) {
            if !models.iter().any(|model| has_input(model, name) || has_output(model, name)) {
                let files = listed(self.members.iter().map(|member| member.name.as_str()));
                bail!("{flag} names '{name}', which is no input or output of {files}");
            }
        }
        Ok(())
    }
}

impl Member {
    fn weight(&self) -> f64 {
        self.table.as_ref().and_then(|table| table.weight).unwrap_or(1.0)
    }

    /// The samples of this model: those of its table, or what folders hold under its name. Flags that name an input or output are
    /// for the models that have it.
    fn samples(&self, given: &Samples, model: &Model) -> Result<Samples> {
        let mut own = given.clone();
        let table = self.table.as_ref().map(|table| [table.calibration.to_vec(), table.holdout.to_vec()]);
        [own.calibration, own.holdout] = match table.filter(|files| files.iter().any(|files| !files.is_empty())) {
            Some(files) => files,
            None => [self.files_in(&given.calibration, "--calibration")?, self.files_in(&given.holdout, "--holdout")?],
        };
        own.stream.retain(|text| text.split_once('=').is_none_or(|(input, _)| has_input(model, input)));
        own.loss.retain(|text| text.rsplit_once(':').is_none_or(|(output, _)| has_output(model, output)));
        own.labels.retain(|(output, _)| has_output(model, output));
        own.holdout_labels.retain(|(output, _)| has_output(model, output));
        if let Some(table) = &self.table {
            own.stream.extend(table.stream.to_vec());
            own.loss.extend(table.loss.to_vec());
        }
        Ok(own)
    }

    /// What folders hold for this model.
    fn files_in(&self, folders: &[PathBuf], flag: &str) -> Result<Vec<PathBuf>> {
        let of_folder = |folder: &PathBuf| {
            if !folder.is_dir() {
                bail!("{flag}: {}: for several models, name a folder with the samples of each", folder.display());
            }
            let name = &self.name;
            let known = [format!("{name}.npz"), format!("{name}.npy"), name.clone()];
            let found = known.iter().map(|name| folder.join(name)).find(|path| path.exists());
            found.with_context(|| {
                format!(
                    "{flag}: {}: no samples of {name}: there is no {name}.npz, {name}.npy or folder {name}",
                    folder.display()
                )
            })
        };
        folders.iter().map(of_folder).collect()
    }
}

/// The checks of a model: those of all outputs, and those of one that it has.
fn own_checks(checks: &[Check], model: &Model) -> Vec<Check> {
    let is_own = |check: &&Check| check.output.as_deref().is_none_or(|output| has_output(model, output));
    checks.iter().filter(is_own).cloned().collect()
}

fn has_input(model: &Model, name: &str) -> bool {
    let graph = model.proto.graph.iter();
    graph.flat_map(|graph| &graph.input).any(|input| input.name() == name)
}

fn has_output(model: &Model, name: &str) -> bool {
    let graph = model.proto.graph.iter();
    graph.flat_map(|graph| &graph.output).any(|output| output.name() == name)
}
