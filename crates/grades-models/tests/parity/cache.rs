//! Text token by token, with what was seen in a cache, against all of it at once.

use std::sync::Arc;

use grades_models::{Inputs, KvCache};
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
