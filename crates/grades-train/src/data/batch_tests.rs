use super::*;

/// A sample of `prompt` tokens without loss and `answer` tokens with it; its ids tell it apart.
fn sample(index: u32, prompt: usize, answer: usize) -> Tokenized {
    let ids: Vec<u32> = (0..).map(|position| 1000 * index + position).take(prompt + answer).collect();
    let labels =
        ids.iter().enumerate().map(|(at, id)| if at < prompt { IGNORE_INDEX } else { i64::from(*id) }).collect();
    Tokenized { ids, labels, ..Tokenized::default() }
}

fn options(micro_batch_size: usize, gradient_accumulation_steps: usize, packing: Option<usize>) -> LoaderOptions {
    let packing = packing.map(|tokens| Packing { tokens, pictures: usize::MAX });
    LoaderOptions { micro_batch_size, gradient_accumulation_steps, packing, shuffle: true, seed: 3 }
}

#[test]
fn targets_are_the_next_tokens_of_the_same_sample() {
    let mut batch = Batch::default();
    batch.push(5, &sample(1, 2, 2));
    batch.push(0, &sample(2, 1, 1));
    assert_eq!(batch.ids, [1000, 1001, 1002, 2000]);
    assert_eq!(batch.targets, [IGNORE_INDEX, 1002, 1003, 2001]);
    assert_eq!(batch.positions, [0, 1, 2, 0]);
    assert_eq!(batch.segments, [(0, 3), (3, 4)]);
    assert_eq!(batch.samples, [5, 0]);
    assert_eq!(batch.label_count, 3);
}

#[test]
fn a_label_on_the_first_token_has_nothing_before_it() {
    let mut batch = Batch::default();
    batch.push(0, &sample(1, 0, 3));
    assert_eq!((batch.ids, batch.targets, batch.label_count), (vec![1000, 1001], vec![1001, 1002], 2));
}

#[test]
fn tokens_after_the_last_label_are_left_out() {
    let mut with_tail = sample(1, 1, 2);
    with_tail.ids.extend([7, 8]);
    with_tail.labels.extend([IGNORE_INDEX, IGNORE_INDEX]);
    let (mut a, mut b) = (Batch::default(), Batch::default());
    a.push(0, &with_tail);
    b.push(0, &sample(1, 1, 2));
    assert_eq!(a, b);
}

fn samples(count: u32) -> Vec<Tokenized> {
    (0..count).map(|index| sample(index, 1 + (index as usize * 7) % 11, 1 + (index as usize * 5) % 6)).collect()
}

#[test]
fn an_epoch_holds_every_sample_once_and_is_shuffled() {
    for packing in [None, Some(20)] {
        let mut loader = Loader::new(samples(43), options(4, 3, packing));
        let steps = loader.steps_per_epoch();
        let mut orders = Vec::new();
        for epoch in 0..2 {
            let mut seen = Vec::new();
            for step in 0..steps {
                let batches = loader.step(epoch * steps + step).unwrap();
                assert!(batches.len() == 3 || step + 1 == steps && !batches.is_empty());
                for batch in batches {
                    assert_eq!(
                        batch.label_count,
                        batch.targets.iter().filter(|target| **target != IGNORE_INDEX).count()
                    );
                    assert!(batch.label_count > 0 && batch.segments.last().unwrap().1 == batch.ids.len());
                    seen.extend(batch.samples);
                }
            }
            let mut sorted = seen.clone();
            sorted.sort_unstable();
            assert_eq!(sorted, (0..43).collect::<Vec<_>>());
            assert_ne!(seen, sorted);
            orders.push(seen);
        }
        assert_ne!(orders[0], orders[1]);
    }
}

#[test]
fn without_packing_a_micro_batch_holds_its_number_of_samples() {
    let mut loader = Loader::new(samples(43), options(4, 3, None));
    // 11 micro-batches, the last of 3 samples; 4 steps, the last of 2 micro-batches.
    assert_eq!(loader.steps_per_epoch(), 4);
    assert_eq!(loader.step(0).unwrap().iter().map(|batch| batch.samples.len()).collect::<Vec<_>>(), [4, 4, 4]);
    assert_eq!(loader.step(3).unwrap().iter().map(|batch| batch.samples.len()).collect::<Vec<_>>(), [4, 3]);
}

#[test]
fn packed_rows_stay_within_their_length() {
    let samples = samples(43);
    let tokens: usize = samples.iter().map(Tokenized::inputs).sum();
    let mut loader = Loader::new(samples, options(1, 1, Some(20)));
    let rows = loader.steps_per_epoch();
    assert!(rows < 2 * tokens.div_ceil(20), "{rows} rows for {tokens} tokens");
    for step in 0..rows {
        let batch = &loader.step(step).unwrap()[0];
        assert!(batch.ids.len() <= 20);
    }
}

#[test]
fn the_order_depends_on_seed_and_step_alone() {
    let all = |seed| {
        let mut loader = Loader::new(samples(43), LoaderOptions { seed, ..options(4, 2, Some(20)) });
        (0..3 * loader.steps_per_epoch()).map(|step| loader.step(step).unwrap()).collect::<Vec<_>>()
    };
    let steps = all(3);
    assert_eq!(steps, all(3));
    assert_ne!(steps, all(4));
    let mut resumed = Loader::new(samples(43), options(4, 2, Some(20)));
    for step in [5, 4, steps.len() - 1] {
        assert_eq!(resumed.step(step).unwrap(), steps[step]);
    }
}

#[test]
fn validation_keeps_the_order() {
    let samples: Vec<Held> = samples(10).into_iter().map(Held::from).collect();
    let in_order = |of, size, packing| in_order(&samples, of, size, packing).unwrap();
    let batches = in_order(0..10, 4, None);
    assert_eq!(
        batches.iter().map(|batch| batch.samples.clone()).collect::<Vec<_>>(),
        [vec![0, 1, 2, 3], vec![4, 5, 6, 7], vec![8, 9]]
    );
    let packed: usize = in_order(0..10, 2, Some(Packing { tokens: 20, pictures: usize::MAX }))
        .iter()
        .map(|batch| batch.label_count)
        .sum();
    // Of one set behind another, each sample keeps its number.
    assert_eq!(in_order(7..10, 2, None).iter().flat_map(|batch| batch.samples.clone()).collect::<Vec<_>>(), [7, 8, 9]);
    assert_eq!(packed, batches.iter().map(|batch| batch.label_count).sum::<usize>());
    assert!(Loader::new(Vec::<Held>::new(), options(4, 1, None)).step(0).unwrap().is_empty());
}

#[test]
fn without_shuffling_every_epoch_has_the_order_of_the_samples() {
    for packing in [None, Some(20)] {
        let mut loader = Loader::new(samples(9), LoaderOptions { shuffle: false, ..options(2, 1, packing) });
        let steps = loader.steps_per_epoch();
        let mut epoch = |from| -> Vec<usize> {
            (from..from + steps).flat_map(|step| loader.step(step).unwrap()).flat_map(|batch| batch.samples).collect()
        };
        let first = epoch(0);
        assert_eq!(first, epoch(steps));
        assert!(packing.is_some() || first.is_sorted());
        assert_eq!(first[0], 0);
    }
}

/// Of every step, also where the last epoch is not gone through: as the micro-batches themselves say.
#[test]
fn the_largest_micro_batch_is_known_without_making_it() {
    let samples: Vec<Tokenized> =
        (0..7).map(|index| sample(index, 1 + 3 * index as usize % 5, 2 + index as usize)).collect();
    for (rows, accumulation, packing) in [(2, 1, None), (2, 2, None), (3, 1, Some(12)), (0, 0, None)] {
        let mut loader = Loader::new(samples.clone(), options(rows, accumulation, packing));
        for steps in 0..9 {
            let batches = (0..steps).flat_map(|step| loader.step(step).unwrap());
            let most = batches.map(|batch| batch.ids.len()).max().unwrap_or(0);
            assert_eq!(loader.largest(steps), (most, 0), "{rows} {accumulation} {packing:?} {steps}");
        }
    }
    assert_eq!(Loader::new(Vec::<Held>::new(), options(2, 1, None)).largest(5), (0, 0));
}
