//! The measured step: what it counts agrees with a count by hand.
//!
//! Operations are counted for the whole process, so one step is made at a time.

use std::sync::{Mutex, PoisonError};

use grades::Companions;
use grades::Flops;
use grades_tensor::Dtype;
use grades_train::bench::step::{Kind, Mode, StepOptions, StepReport, run};
use grades_train::bench::{BenchError, Shape};

fn step(options: StepOptions) -> StepReport {
    static COUNTERS: Mutex<()> = Mutex::new(());
    let _exclusive = COUNTERS.lock().unwrap_or_else(PoisonError::into_inner);
    let mut steps = 0;
    let report = run(&options, &mut |_| steps += 1).unwrap();
    assert_eq!(steps, options.steps);
    report
}

/// Rows, tokens a row, and labels a row of the tiny shape's batch.
const ROWS: u64 = 2;
const TOKENS: u64 = 8;
const LABELS: u64 = 2;

fn options(frozen: &str, companions: Companions) -> StepOptions {
    StepOptions {
        base: Dtype::F32,
        precision: Dtype::F32,
        shape: Shape::Tiny,
        mode: Mode::Full,
        lora_r: 32,
        load_in_4bit: false,
        rows: ROWS as usize,
        tokens: TOKENS as usize,
        pictures: 1,
        image_size: 16,
        completion_share: 0.25,
        steps: 2,
        frozen: frozen.parse().unwrap(),
        companions,
        monitor: true,
        max_grad_norm: 1.0,
        gradient_checkpointing: false,
        fold_frozen: false,
        prefix_cache: false,
        simulated_threads: Vec::new(),
    }
}

#[test]
fn what_a_step_keeps_adds_up_and_is_what_a_plan_says() {
    let plain = || StepOptions { tokens: 64, completion_share: 1.0, ..options("none", Companions::Train) };
    let lora = |base, load_in_4bit| StepOptions { mode: Mode::Lora, lora_r: 4, base, load_in_4bit, ..plain() };
    let (embedding, matrices) = (256 * 64, 4 * (2 * 64 * 64 + 2 * 32 * 64 + 3 * 160 * 64));
    let vectors = 4 * (4 * 2 * 64 + 64);
    for (options, base_bytes) in [
        (plain(), 4 * (embedding + matrices) + vectors),
        // A tied embedding counts once.
        (lora(Dtype::Bf16, false), 2 * (embedding + matrices) + vectors),
        (lora(Dtype::F32, false), 4 * (embedding + matrices) + vectors),
        (lora(Dtype::Bf16, true), 2 * embedding + vectors + step(lora(Dtype::F32, true)).matrices_bytes),
    ] {
        for precision in [Dtype::F32, Dtype::Bf16] {
            for gradient_checkpointing in [false, true] {
                let report = step(StepOptions { precision, gradient_checkpointing, ..options.clone() });
                let (kept, plan) = (report.kept.unwrap(), report.memory);
                let of = |name| kept.kinds.iter().find(|kind| kind.name == name).map_or([0, 0], Kind::bytes);
                let what = format!("{} of {}, {kept:#?}", report.options.mode.name(), report.options.base.name());
                assert_eq!(report.base_bytes, base_bytes, "{what}");
                // Of NF4 a matrix has a scale of scales and an offset beside what a plan counts.
                let beside = if options.load_in_4bit { 28 * 8 } else { 0 };
                assert_eq!(of("weights"), [plan.weights + beside; 2], "{what}");
                assert_eq!(of("gradients")[1], plan.gradients, "{what}");
                assert_eq!(of("optimizer"), [plan.optimizer; 2], "{what}");
                assert_eq!(of("monitor"), [plan.kept; 2], "{what}");
                // The plan leaves out what comes before the layers and behind them.
                let share = of("activations")[0] as f64 / plan.activations as f64;
                assert!((0.95..1.15).contains(&share), "{share}: {what}");
                let all = |moment: usize| kept.kinds.iter().map(|kind| kind.bytes()[moment]).sum::<u64>();
                assert_eq!((kept.begins, kept.ends), (all(0), all(1)));
                assert_eq!(kept.peak, kept.other.map(|other| other + kept.begins.max(kept.ends)));
            }
        }
    }
    assert_eq!(step(StepOptions { mode: Mode::Forward, ..plain() }).kept, None);
}

#[test]
fn counts_agree_with_counts_by_hand() {
    // The tiny shape: 4 layers, hidden 64, MLP 160, 4 heads of 16, 2 of them for keys and values, vocabulary 256.
    let tokens = ROWS * TOKENS;
    let (q, kv, mlp) = (2 * tokens * 64 * 64, 2 * tokens * 64 * 32, 2 * tokens * 64 * 160);
    let linear = q + 2 * kv + q + 3 * mlp;
    // Two products of 16 operations pairs a head for every pair of tokens that sees one another.
    let attention = 4 * 16 * 4 * ROWS * (TOKENS * (TOKENS + 1) / 2);
    // The backward pass computes the scores again, and two gradients for each product.
    let attention_back = attention / 2 * 5;
    let head = 2 * ROWS * LABELS * 64 * 256;

    let none = step(options("none", Companions::Train));
    let all = Flops {
        forward: 4 * (linear + attention) + head,
        input_gradient: 4 * (linear + attention_back) + head,
        weight_gradient: 4 * linear + head,
    };
    assert_eq!((none.flops, none.flops_ratio), (all, 1.0));
    let forward = step(StepOptions { mode: Mode::Forward, ..options("none", Companions::Train) });
    // Above the last layer's attention only the rows with a label are computed.
    let left_out = (q + 3 * mlp) / TOKENS * (TOKENS - LABELS);
    assert_eq!(forward.flops, Flops { forward: all.forward - left_out, ..Flops::default() });
    assert!((forward.loss - none.loss).abs() < 0.2, "{} and {}", forward.loss, none.loss);
    let ratio = |part: Flops| part.total() as f64 / all.total() as f64;

    // Over two layers every role is frozen once: half of the weight gradients.
    let scattered = step(options("scattered:0.5", Companions::Train));
    let expected = Flops { weight_gradient: 2 * linear + head, ..all };
    assert_eq!((scattered.flops, scattered.flops_ratio), (expected, ratio(expected)));

    // With the norms and the embedding frozen the backward pass ends above the second layer; as head the tied
    // embedding trains on.
    let prefix = step(options("prefix:0.5", Companions::Follow));
    assert_eq!(prefix.flops.forward, all.forward);
    assert_eq!(prefix.flops.input_gradient, 2 * (linear + attention_back) + head);
    assert_eq!(prefix.flops.weight_gradient, 2 * linear + head);
    assert_eq!(prefix.flops_ratio, ratio(prefix.flops));
    // Without, it goes down to the embedding.
    let train = step(options("prefix:0.5", Companions::Train));
    assert_eq!(train.flops, expected);

    let roles = step(options("roles:q,k,v,o", Companions::Train));
    assert_eq!(roles.flops, Flops { weight_gradient: 4 * 3 * mlp + head, ..all });
    let last = step(options("all-but-last", Companions::Follow));
    assert_eq!(last.flops.input_gradient, linear + attention_back + head);

    // Adapters: x · Aᵀ and · Bᵀ in every projection. Nothing below the first layer trains, so its q, k and v pass no
    // gradient on.
    let lora = step(StepOptions { mode: Mode::Lora, ..options("none", Companions::Train) });
    let low_rank = |sides: u64| 2 * tokens * 32 * sides;
    let (ins, outs) = (6 * 64 + 160, 64 + 2 * 32 + 64 + 2 * 160 + 64);
    assert_eq!(lora.flops.forward, all.forward + 4 * low_rank(ins + outs));
    let stopped = q + 2 * kv + low_rank(3 * 64);
    assert_eq!(lora.flops.input_gradient, all.input_gradient + 4 * low_rank(ins + outs) - stopped);
    assert_eq!(lora.flops.weight_gradient, 4 * low_rank(ins + outs));
    assert_eq!(lora.trainable_parameters as u64, 4 * 32 * (ins + outs));
    assert_eq!((lora.kept_bytes, lora.units), (4 * 4 * 32 * (ins + outs), 28));
    let halved = step(StepOptions { mode: Mode::Lora, ..options("scattered:0.5", Companions::Train) });
    assert_eq!(halved.flops, Flops { weight_gradient: lora.flops.weight_gradient / 2, ..lora.flops });
    assert_eq!(halved.optimizer_bytes, lora.optimizer_bytes / 2);
    // Folded, the frozen half has no products at all. Of the first layer it is k, so q and v still pass no gradient on.
    let scattered_lora = StepOptions { mode: Mode::Lora, ..options("scattered:0.5", Companions::Train) };
    let folded = step(StepOptions { fold_frozen: true, ..scattered_lora });
    let half = 2 * low_rank(ins + outs);
    let expected = Flops {
        forward: all.forward + half,
        input_gradient: all.input_gradient + half - (q + 2 * kv + low_rank(2 * 64)),
        weight_gradient: half,
    };
    assert_eq!(folded.flops, expected);
    assert_eq!(folded.flops_ratio, expected.total() as f64 / lora.flops.total() as f64);

    // In 4 bits the same products run, through other numbers: codes, a scale of 8 bits for 64 of them, and its scale.
    let packed = step(StepOptions { mode: Mode::Lora, load_in_4bit: true, ..options("none", Companions::Train) });
    assert_eq!((packed.flops, packed.kept_bytes), (lora.flops, lora.kept_bytes));
    assert!((packed.loss - lora.loss).abs() < 0.05 && packed.loss != lora.loss, "{} {}", packed.loss, lora.loss);
    let sizes = [(64 * 64, 2), (32 * 64, 2), (160 * 64, 3)];
    let bytes = |values: u64| values / 2 + values / 64 + 4 * (values / 64).div_ceil(256) + 4;
    let expected: u64 = sizes.iter().map(|(values, count)| 4 * count * bytes(*values)).sum();
    assert_eq!((packed.matrices_bytes, packed.matrices_bf16_bytes), (expected, lora.matrices_bf16_bytes));
    assert!(10 * packed.matrices_bytes < 3 * packed.matrices_bf16_bytes);
    assert_eq!(lora.base_bytes - packed.base_bytes, lora.matrices_bytes - packed.matrices_bytes);

    // AdamW holds two numbers for each number that trains, the monitor one for each of the matrices.
    let matrices = 4 * (2 * 64 * 64 + 2 * 32 * 64 + 3 * 160 * 64);
    let companions = 256 * 64 + 4 * 2 * 64 + 64;
    assert_eq!(none.parameters as u64, matrices + companions);
    assert_eq!(none.optimizer_bytes, 8 * (matrices + companions));
    assert_eq!(none.kept_bytes, 4 * matrices);
    assert_eq!(scattered.optimizer_bytes, 8 * (matrices / 2 + companions));
    assert_eq!(scattered.kept_bytes, 4 * matrices / 2);
    assert_eq!((none.units, none.frozen_units, prefix.frozen_units), (28, 0, 14));

    // Random labels: the loss is that of guessing.
    assert!((none.loss - 256.0_f64.ln()).abs() < 0.3, "{}", none.loss);
    for report in [&none, &scattered, &prefix] {
        let f = report.best;
        assert!(f.step_seconds <= report.median.step_seconds);
        let parts = f.forward_seconds + f.backward_seconds + f.optimizer_seconds + f.monitor_seconds;
        assert!(f.monitor_seconds > 0.0 && parts <= f.step_seconds);
        let arithmetic = f.gflops * 1e9 * f.step_seconds;
        assert!((arithmetic / report.flops.total() as f64 - 1.0).abs() < 1e-9);
    }
    let quiet = step(StepOptions { monitor: false, ..options("none", Companions::Train) });
    assert_eq!((quiet.kept_bytes, quiet.median.monitor_seconds), (0, 0.0));
    // Monitoring only looks.
    assert_eq!(quiet.loss, none.loss);

    // With checkpointing all layers but the last run forward twice.
    let again = step(StepOptions { gradient_checkpointing: true, ..options("none", Companions::Train) });
    assert_eq!(again.flops, Flops { forward: all.forward + 3 * (linear + attention), ..all });
    assert_eq!((again.loss, again.flops_ratio), (none.loss, 1.0));

    // From kept outputs the lower half does not run at all.
    let cached = step(StepOptions { prefix_cache: true, ..options("prefix:0.5", Companions::Follow) });
    let forward = all.forward - 2 * (linear + attention);
    assert_eq!(cached.flops, Flops { forward, ..prefix.flops });
    assert_eq!(cached.flops_ratio, ratio(cached.flops));

    // Behind a tower of 2 layers, hidden 32, MLP 64, 2 heads of 16, on 16 patches of 48 numbers a row, of which 4 become one of the
    // language model: 2 layers, hidden 32, MLP 64, 4 heads of 8, 2 of them for keys and values.
    let (patches, tokens) = (ROWS * 16, ROWS * (TOKENS + 4));
    let embedding = 2 * patches * 48 * 32;
    let tower = 2 * (2 * patches * (4 * 32 * 32 + 2 * 32 * 64));
    let seen = 2 * (4 * 16 * 2 * ROWS * 16 * 16);
    let projector = 2 * ROWS * 4 * (4 * 32) * 32;
    let layers = 2 * (2 * tokens * (2 * 32 * 32 + 2 * 32 * 16 + 3 * 32 * 64));
    let attention = 2 * (4 * 8 * 4 * ROWS * ((TOKENS + 4) * (TOKENS + 5) / 2));
    let head = 2 * ROWS * LABELS * 32 * 256;
    let with_pictures = || StepOptions { shape: Shape::TinyVlm, lora_r: 4, ..options("none", Companions::Train) };
    let full = step(with_pictures());
    let all = Flops {
        forward: embedding + tower + seen + projector + layers + attention + head,
        input_gradient: tower + seen / 2 * 5 + projector + layers + attention / 2 * 5 + head,
        weight_gradient: embedding + tower + projector + layers + head,
    };
    assert_eq!((full.flops, full.flops_ratio), (all, 1.0));
    assert!((full.loss - 256.0_f64.ln()).abs() < 0.3, "{}", full.loss);
    // Adapters are on the language model: nothing goes back into the tower, which runs forward alone.
    let lora = step(StepOptions { mode: Mode::Lora, ..with_pictures() });
    let (ins, outs) = (6 * 32 + 64, 32 + 2 * 16 + 32 + 2 * 64 + 32);
    let low_rank = 2 * 2 * tokens * 4 * (ins + outs);
    assert_eq!(lora.trainable_parameters as u64, 2 * 4 * (ins + outs));
    assert_eq!((lora.flops.forward, lora.flops.weight_gradient), (all.forward + low_rank, low_rank));
    assert!(lora.memory.activations < full.memory.activations && lora.memory.pictures == full.memory.pictures);
    let text = step(StepOptions { pictures: 0, ..with_pictures() });
    assert!(text.flops.forward < layers + attention + head && text.memory.pictures == 0);

    let refused = |options: StepOptions| match run(&options, &mut |_| {}) {
        Err(BenchError::Option(message)) => message,
        other => panic!("{other:?}"),
    };
    let valid = || options("none", Companions::Train);
    assert!(refused(StepOptions { load_in_4bit: true, ..valid() }).contains("mode lora"));
    assert!(refused(StepOptions { rows: 0, ..valid() }).contains("0 rows"));
    assert!(refused(StepOptions { tokens: 513, ..valid() }).contains("1 to 512"));
    assert!(refused(StepOptions { completion_share: 1.5, ..valid() }).contains("1.5"));
    assert!(refused(StepOptions { image_size: 0, ..with_pictures() }).contains("0 pixels"));
    assert!(refused(StepOptions { prefix_cache: true, ..with_pictures() }).contains("--pictures 0"));
}
