//! Text token by token, with what was seen in a cache, against all of it at once.

use std::sync::Arc;

use grades_models::{Inputs, KvCache, KvCaches};
use grades_tensor::Layout;

use crate::fixture::{assert_close, base, find_each, in_f64, relative_error};

#[test]
fn tokens_that_follow_a_cache_have_the_logits_of_the_whole_text() {
    for (family, folder) in find_each(&[
        "dynamic",
        "gemma3_text",
        "llama",
        "llama3",
        "mistral",
        "mixtral",
        "phi3",
        "phi3_long",
        "qwen2",
        "qwen3",
        "qwen3_moe",
        "smollm3",
        "yarn",
    ]) {
        let model = base(&folder, "config.json");
        let vocabulary = model.sizes().vocab_size;
        let ids: Vec<u32> = (0..23).map(|index| (index * 37 + 11) % vocabulary as u32).collect();
        let (mut cache, mut end, mut read_again) = (KvCache::default(), 0, Vec::new());
        for more in [4, 1, 1, 6, 1, 1, 1, 1, 1, 6] {
            end += more;
            let from = if model.outgrows(&cache, more) {
                let without = model.next_logits(&ids[end - more..end], &mut cache).to_host().into_owned();
                read_again.push((end, without));
                cache = KvCache::default();
                0
            } else {
                end - more
            };
            let found = model.next_logits(&ids[from..end], &mut cache);
            assert_eq!(cache.tokens(), end);
            let layout = Layout::packed(std::slice::from_ref(&(0..end)));
            let whole = model.logits(&Inputs::tokens(Arc::new(ids[..end].to_vec()), Arc::new(layout)));
            let expected = in_f64(&whole.to_host()[(end - 1) * vocabulary..]);
            assert_close(&format!("{family} at {end}"), &found.to_host(), &expected);
            if let Some((_, without)) = read_again.last().filter(|(at, _)| *at == end) {
                assert!(relative_error(without, &expected) > 1e-3, "{family}: nothing had to be read again");
            }
        }
        // Once, where the text becomes a long one, or in each longer text than what nothing is stretched in.
        let again = if folder.ends_with("dynamic") { 2 } else { usize::from(folder.ends_with("phi3_long")) };
        assert_eq!(read_again.len(), again, "{family}");
    }
}

#[test]
fn samples_that_grow_together_have_the_logits_that_each_has_alone() {
    for (family, folder) in
        find_each(&["gemma3_text", "llama", "mistral", "mixtral", "phi3", "qwen3", "smollm3", "yarn"])
    {
        let model = base(&folder, "config.json");
        let vocabulary = model.sizes().vocab_size;
        let id = |index: usize| ((index * 37 + 11) % vocabulary) as u32;
        // Prompts of different lengths, of which the second ends two tokens before the others.
        let prompts: Vec<Vec<u32>> = [5, 1, 9].iter().map(|&len| (len..2 * len).map(id).collect()).collect();
        let (mut texts, mut caches) = (prompts.clone(), KvCaches::with_room(&[9, 3, 13]));
        let mut start = 0;
        let segments = prompts.iter().map(|prompt| {
            start += prompt.len();
            start - prompt.len()..start
        });
        let layout = Layout::packed(&segments.collect::<Vec<_>>());
        let inputs = Inputs::tokens(Arc::new(prompts.concat()), Arc::new(layout));
        let mut found = model.first_logits_of_each(&inputs, &mut caches);
        let mut going = vec![0, 1, 2];
        for step in 0..5 {
            for (&sample, logits) in going.iter().zip(found.to_host().chunks_exact(vocabulary)) {
                let expected = model.next_logits(&texts[sample], &mut KvCache::default());
                assert_close(&format!("{family}, sample {sample}, step {step}"), logits, &in_f64(&expected.to_host()));
            }
            if step == 2 {
                going.remove(1);
            }
            let next: Vec<u32> = going.iter().map(|&sample| id(step * 3 + sample + 50)).collect();
            if step < 4 {
                found = model.next_logits_of_each(&next, &going, &mut caches);
            }
            going.iter().zip(next).for_each(|(&sample, id)| texts[sample].push(id));
        }
    }
}

#[test]
fn samples_that_come_and_go_have_to_the_bit_the_logits_that_each_has_alone() {
    for (family, folder) in
        find_each(&["gemma3_text", "llama", "mistral", "mixtral", "phi3", "qwen3", "smollm3", "yarn"])
    {
        let model = base(&folder, "config.json");
        let vocabulary = model.sizes().vocab_size;
        let ids = |from: usize, count: usize| -> Vec<u32> {
            (from..from + count).map(|index| ((index * 37 + 11) % vocabulary) as u32).collect()
        };
        // A prompt, read in two parts, and tokens behind it: alone,
        let (prompt, written) = (ids(3, 11), ids(40, 4));
        let alone = |caches: &mut KvCaches, among: &mut dyn FnMut(&mut KvCaches, usize, u32) -> Vec<f32>| {
            let sample = caches.join(prompt.len() + written.len());
            assert!(model.read_on(&prompt[..6], 0, sample, caches).is_none());
            let mut found = model.read_on(&prompt[6..], 1, sample, caches).unwrap().to_host().into_owned();
            written.iter().for_each(|&token| found.extend(among(caches, sample, token)));
            caches.leave(sample);
            found
        };
        let mut caches = KvCaches::default();
        let expected = alone(&mut caches, &mut |caches, sample, token| {
            model.next_logits_of_each(&[token], &[sample], caches).to_host().into_owned()
        });
        // and with others, of which one leaves before and one joins between, so that rooms are used again and grow.
        let mut caches = KvCaches::default();
        let (left, stays) = (caches.join(4), caches.join(30));
        let _ = model.read_on(&ids(7, 4), 1, left, &mut caches);
        let _ = model.read_on(&ids(9, 5), 1, stays, &mut caches);
        caches.leave(left);
        let mut late = None;
        let found = alone(&mut caches, &mut |caches, sample, token| {
            assert_eq!(sample, left, "{family}: the number of who left");
            let late = *late.get_or_insert_with(|| {
                let late = caches.join(12);
                let _ = model.read_on(&ids(20, 3), 1, late, caches);
                late
            });
            let together = model.next_logits_of_each(&[5, token, 6], &[stays, sample, late], caches);
            together.to_host()[vocabulary..2 * vocabulary].to_vec()
        });
        assert!(found == expected, "{family}");
        // Where several logits are wanted, they are those of the last tokens.
        let sample = caches.join(8);
        let several = model.read_on(&prompt[..8], 3, sample, &mut caches).unwrap();
        let all = model.logits(&Inputs::sample(prompt[..8].to_vec()));
        assert_close(family, &several.to_host(), &in_f64(&all.to_host()[5 * vocabulary..]));
    }
}

#[test]
fn what_is_cut_from_a_cache_is_as_if_it_had_not_been_read() {
    for (family, folder) in find_each(&["gemma3_text", "llama"]) {
        let model = base(&folder, "config.json");
        let ids: Vec<u32> = (0..12).map(|index| (index * 37 + 11) % model.sizes().vocab_size as u32).collect();
        let (mut cache, mut other) = (KvCache::default(), KvCache::default());
        let _ = model.next_logits(&[&ids[..7], &[1, 2, 3]].concat(), &mut cache);
        cache.cut(7);
        assert_eq!(cache.tokens(), 7);
        let found = model.next_logits(&ids[7..], &mut cache);
        let expected = model.next_logits(&ids, &mut other);
        assert_close(family, &found.to_host(), &in_f64(&expected.to_host()));
    }
}
