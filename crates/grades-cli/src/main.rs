//! `grades`: fine-tunes a language model and stops each weight matrix when it has converged.

mod assemble;
mod bench;
mod chat;
mod child;
mod compare;
mod configs;
mod draws;
mod eval;
mod export;
mod generate;
mod inspect;
mod merge;
mod output;
mod parts;
mod preprocess;
mod quickstart;
mod report;
mod runs;
mod schema;
mod serve;
mod shell;
mod signals;
mod sweep;
mod train;
mod upload;

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use grades_train::train::{Interrupt, TrainError};

/// Fine-tunes transformer language models and stops each weight matrix when it has converged (GradES).
///
/// Every command takes --json and then prints one JSON object on standard output; logs go to standard error.
#[derive(Debug, Parser)]
#[command(name = "grades", version, max_term_width = 110)]
struct Cli {
    #[command(subcommand)]
    command: Command,
    /// Print one JSON object on standard output instead of text.
    #[arg(long, global = true)]
    json: bool,
    /// Threads to compute with; where left out one per physical core, within the control group's quota.
    #[arg(long, global = true, value_name = "N")]
    threads: Option<std::num::NonZeroUsize>,
    /// End as at SIGTERM when standard input ends: for a program that began this one.
    #[arg(long, global = true, hide = true)]
    end_with_stdin: bool,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// See all of it work: a small model that the program brings along, with and without stopping early.
    Quickstart(quickstart::Args),
    /// Fine-tune a model as a config file says.
    Train(train::Args),
    /// Show what a run trains on: samples, lengths, what is left out.
    Preprocess(preprocess::Args),
    /// Compare methods of early stopping on one model and data.
    Compare(compare::Args),
    /// Run GradES over a grid of thresholds and grace periods.
    Sweep(sweep::Args),
    /// Score a model on multiple-choice benchmarks by log-likelihood.
    Eval(eval::Args),
    /// Continue a text.
    Generate(generate::Args),
    /// Talk with a model.
    Chat(chat::Args),
    /// Answer requests to OpenAI's API with a model.
    Serve(serve::Args),
    /// Begin a model that reads pictures, with a vision tower and a language model.
    Assemble(assemble::Args),
    /// Fold an adapter into its base.
    Merge(merge::Args),
    /// Write a model as GGUF files, for llama.cpp, Ollama and LM Studio.
    Export(export::Args),
    /// Bring a model or adapter to the Hugging Face Hub.
    Upload(upload::Args),
    /// Show what a checkpoint holds and what fine-tuning it would need.
    Inspect(inspect::Args),
    /// Show runs as one HTML file: losses, signals, what froze when, time, memory, arithmetic.
    Report(report::Args),
    /// Print the JSON Schema of a config, or look one of its keys up.
    Schema(schema::Args),
    /// List the ready configs, or copy one.
    Configs(configs::Args),
    /// Measure this machine: the training step, or the matrix products that it is made of.
    Bench(bench::Args),
    /// Print what a shell needs to complete commands and options.
    Completions(shell::Completions),
    /// Write the manual pages.
    Man(shell::Man),
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    output::show_warnings();
    grades_kernels::reuse_freed_memory();
    let interrupt = match &cli.command {
        Command::Train(_) | Command::Serve(_) | Command::Chat(_) => signals::interrupt(),
        _ => Ok(Interrupt::default()),
    };
    let result = interrupt.and_then(|interrupt| {
        if cli.end_with_stdin {
            signals::end_with_stdin(interrupt.clone());
        }
        run(cli, &interrupt)
    });
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            output::log(&format!("error: {}", sentence(&error)));
            match error.downcast_ref() {
                Some(TrainError::Interrupted { signal, .. }) => ExitCode::from(signals::status(*signal) as u8),
                _ => ExitCode::FAILURE,
            }
        }
    }
}

fn run(cli: Cli, interrupt: &Interrupt) -> anyhow::Result<()> {
    match cli.command {
        Command::Quickstart(args) => args.run(cli.json, cli.threads),
        Command::Train(args) => args.run(cli.json, cli.threads, interrupt),
        Command::Preprocess(args) => args.run(cli.json),
        Command::Compare(args) => args.run(cli.json, cli.threads),
        Command::Sweep(args) => args.run(cli.json, cli.threads),
        Command::Eval(args) => {
            output::set_threads(cli.threads).and_then(|()| grades_kernels::on_worker(|| args.run(cli.json)))
        }
        Command::Generate(args) => {
            output::set_threads(cli.threads).and_then(|()| grades_kernels::on_worker(|| args.run(cli.json)))
        }
        Command::Chat(args) => {
            output::set_threads(cli.threads).and_then(|()| grades_kernels::on_worker(|| args.run(cli.json, interrupt)))
        }
        Command::Serve(args) => {
            output::set_threads(cli.threads).and_then(|()| grades_kernels::on_worker(|| args.run(cli.json, interrupt)))
        }
        Command::Assemble(args) => args.run(cli.json),
        Command::Merge(args) => {
            output::set_threads(cli.threads).and_then(|()| grades_kernels::on_worker(|| args.run(cli.json)))
        }
        Command::Export(args) => {
            output::set_threads(cli.threads).and_then(|()| grades_kernels::on_worker(|| args.run(cli.json)))
        }
        Command::Upload(args) => args.run(cli.json),
        Command::Inspect(args) => args.run(cli.json),
        Command::Report(args) => args.run(cli.json),
        Command::Schema(args) => args.run(cli.json),
        Command::Configs(args) => args.run(cli.json),
        Command::Completions(args) => args.run(),
        Command::Man(args) => args.run(cli.json),
        Command::Bench(args) => {
            output::set_threads(cli.threads).and_then(|()| grades_kernels::on_worker(|| args.run(cli.json)))
        }
    }
}

/// An error with its causes; a cause that the message before it already tells is not told again.
fn sentence(error: &anyhow::Error) -> String {
    error.chain().map(ToString::to_string).fold(String::new(), |told, cause| match told.as_str() {
        "" => cause,
        before if before.contains(&cause) => told,
        before => format!("{before}: {cause}"),
    })
}
