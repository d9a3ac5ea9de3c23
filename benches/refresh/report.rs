//! What a scenario has found: a table for people, a file for programs.

use std::fs;
use std::path::Path;

use anyhow::Context as _;
use comfy_table::{CellAlignment, Table, presets};
use serde::Serialize;
use serde_json::{Value, json};

use crate::machine::Machine;

/// The results of one scenario.
#[derive(Debug)]
pub(crate) struct Report {
    pub(crate) scenario: &'static str,
    /// In one line, for people.
    pub(crate) title: String,
    pub(crate) settings: Value,
    /// Everything that was measured, raw and condensed.
    pub(crate) measured: Value,
    /// The table: its head, and its lines.
    pub(crate) head: Vec<String>,
    pub(crate) lines: Vec<Vec<String>>,
    pub(crate) bounds: Vec<Bound>,
    /// What people should know beside the table.
    pub(crate) notes: Vec<String>,
    /// Why it is not to be called a result.
    pub(crate) doubts: Vec<String>,
}

/// A figure that was promised (README of the project's issue 6, docs/performance.md).
#[derive(Debug, Serialize)]
pub(crate) struct Bound {
    what: String,
    at_most: Option<f64>,
    at_least: Option<f64>,
    /// Nothing: it was not measured.
    measured: Option<f64>,
    reached: Option<bool>,
    #[serde(skip)]
    unit: &'static str,
}

impl Bound {
    /// No more than `limit`.
    pub(crate) fn at_most(
        what: &str,
        limit: f64,
        unit: &'static str,
        measured: Option<f64>,
    ) -> Self {
        let reached = measured.map(|it| it <= limit);
        Self {
            what: what.to_owned(),
            at_most: Some(limit),
            at_least: None,
            measured,
            reached,
            unit,
        }
    }

    /// No less than `limit`.
    pub(crate) fn at_least(
        what: &str,
        limit: f64,
        unit: &'static str,
        measured: Option<f64>,
    ) -> Self {
        let reached = measured.map(|it| it >= limit);
        Self {
            what: what.to_owned(),
            at_most: None,
            at_least: Some(limit),
            measured,
            reached,
            unit,
        }
    }

    fn line(&self) -> [String; 4] {
        let limit = match (self.at_most, self.at_least) {
            (Some(limit), _) => format!("≤ {} {}", short(limit), self.unit),
            (_, Some(limit)) => format!("≥ {} {}", short(limit), self.unit),
            _ => String::new(),
        };
        let measured = self.measured.map_or_else(|| "not measured".to_owned(), short);
        let verdict = match self.reached {
            Some(true) => "reached",
            Some(false) => "NOT reached",
            None => "-",
        };
        [self.what.clone(), limit.trim_end().to_owned(), measured, verdict.to_owned()]
    }
}

impl Report {
    /// Prints the tables and writes the file; says whether it is a result.
    pub(crate) fn publish(&self, out: &Path) -> anyhow::Result<bool> {
        let machine = Machine::here();
        let is_result = self.doubts.is_empty();
        let file = out.join(format!("{}.json", self.scenario));
        let whole = json!({
            "scenario": self.scenario, "result": is_result, "machine": machine,
            "settings": self.settings, "measured": self.measured, "bounds": self.bounds,
            "notes": self.notes, "doubts": self.doubts,
        });
        fs::write(&file, format!("{whole:#}\n"))
            .with_context(|| format!("{} cannot be written", file.display()))?;
        println!("\n{}\n{}", self.title, machine.line());
        println!("{}", table(&self.head, &self.lines));
        if !self.bounds.is_empty() {
            let head = ["bound", "limit", "measured", ""].map(str::to_owned);
            let lines: Vec<_> = self.bounds.iter().map(|bound| bound.line().to_vec()).collect();
            println!("{}", table(&head, &lines));
        }
        for note in &self.notes {
            println!("{note}");
        }
        if !is_result {
            println!(
                "\nNOT A RESULT: {}. Other programs on this machine, or other machines on its hardware, \
                 were in the way: measure again when it is quiet.",
                self.doubts.join("; ")
            );
        }
        println!("{}", file.display());
        Ok(is_result)
    }
}

fn table(head: &[String], lines: &[Vec<String>]) -> Table {
    let mut table = Table::new();
    table.load_preset(presets::UTF8_FULL_CONDENSED).set_header(head);
    for line in lines {
        table.add_row(line);
    }
    for column in table.column_iter_mut().skip(1) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    table
}

/// With as many decimals as matter.
pub(crate) fn short(value: f64) -> String {
    let decimals = match value.abs() {
        0.0 => 0,
        large if large >= 100.0 => 0,
        middle if middle >= 10.0 => 1,
        small if small >= 0.1 => 2,
        _ => 4,
    };
    let text = format!("{value:.decimals$}");
    if text.contains('.') {
        text.trim_end_matches('0').trim_end_matches('.').to_owned()
    } else {
        text
    }
}
