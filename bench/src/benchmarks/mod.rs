//! `report`: runs sections, each a command line of this very program, keeps what they found as data, and writes a page with charts
//! of all that is kept.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context, bail, ensure};
use serde::{Deserialize, Serialize};

use crate::figures::Findings;

mod bars;
mod charts;
mod lines;
mod page;
pub mod sections;
mod targets;

use sections::{SECTIONS, Section};

/// What to do.
#[derive(Clone, Debug, clap::Args)]
pub struct Options {
    /// The folder of the page, the charts and the data
    #[arg(long, default_value = "docs/benchmarks")]
    pub into: PathBuf,
    /// Run these sections, and keep what is there of the others [default: all that need nothing but this program]
    #[arg(long, value_delimiter = ',', value_name = "SECTIONS")]
    pub only: Vec<String>,
    /// Run everything small, to see that it works: the figures mean nothing
    #[arg(long)]
    pub quick: bool,
    /// Run nothing: write the page anew
    #[arg(long, conflicts_with_all = ["only", "quick"])]
    pub render: bool,
    /// List the sections and their commands
    #[arg(long)]
    pub list: bool,
}

/// What is kept of a section.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Kept {
    /// The arguments of `ringway-bench`.
    pub command: String,
    /// What they gave.
    pub findings: Findings,
}

/// By section.
pub type Results = BTreeMap<String, Kept>;

/// The data of a folder.
const DATA: &str = "results.json";

/// Runs the sections that are asked for with `program`, which is `ringway-bench`, and writes the folder.
///
/// # Errors
/// A section that fails, with what it said; a folder that cannot be written.
pub fn run(options: &Options, program: &Path) -> anyhow::Result<()> {
    if options.list {
        for section in sections::all() {
            println!("{:<22} {}", section.name, section.arguments);
        }
        return Ok(());
    }
    let chosen = chosen(options)?;
    fs::create_dir_all(&options.into)?;
    let data = options.into.join(DATA);
    let mut results = read(&data)?;
    for section in chosen {
        eprintln!("{}: ringway-bench {}", section.name, section.arguments);
        let result = measure(program, section, options.quick)
            .with_context(|| format!("section {}", section.name))?;
        results.insert(section.name.to_owned(), result);
        // What has been measured is kept if the next one fails.
        fs::write(&data, serde_json::to_string_pretty(&results)? + "\n")?;
    }
    let charts = charts::all(&results)?;
    for (name, chart) in &charts {
        fs::write(options.into.join(name), chart)?;
    }
    let charts: Vec<_> = charts.iter().map(|(name, _)| *name).collect();
    fs::write(
        options.into.join("README.md"),
        page::page(&results, &charts),
    )?;
    Ok(())
}

fn chosen(options: &Options) -> anyhow::Result<Vec<&'static Section>> {
    if options.render {
        return Ok(Vec::new());
    }
    if options.only.is_empty() {
        return Ok(SECTIONS.iter().collect());
    }
    let find = |name: &String| {
        let found = sections::all().find(|section| section.name == name);
        found.with_context(|| format!("{name:?} is no section: see --list"))
    };
    options.only.iter().map(find).collect()
}

fn read(data: &Path) -> anyhow::Result<Results> {
    match fs::read_to_string(data) {
        Ok(text) => serde_json::from_str(&text).with_context(|| data.display().to_string()),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Results::new()),
        Err(error) => Err(error).with_context(|| data.display().to_string()),
    }
}

fn measure(program: &Path, section: &Section, quick: bool) -> anyhow::Result<Kept> {
    let command = match quick {
        true => section.quick(),
        false => section.arguments.to_owned(),
    };
    let mut child = Command::new(program);
    child.args(command.split(' ')).arg("--json");
    let output = child.stderr(Stdio::inherit()).output()?;
    ensure!(
        output.status.success(),
        "`ringway-bench {command}` ends with {}: {}",
        output.status,
        String::from_utf8_lossy(&output.stdout)
    );
    let findings: Findings = serde_json::from_slice(&output.stdout)?;
    if findings.sides.is_empty() {
        bail!("`ringway-bench {command}` found nothing");
    }
    Ok(Kept { command, findings })
}
