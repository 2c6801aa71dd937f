//! Damaged files: none makes the decoder or a processor panic.

use std::sync::LazyLock;

use grades_images::{Alpha, Backend, Limits, Processor, TilesOptions, decode, dimensions};
use proptest::prelude::*;
use serde_json::json;

use crate::fixture::own;

static FILES: LazyLock<Vec<Vec<u8>>> = LazyLock::new(|| {
    let mut paths: Vec<_> = ["images", "pictures"]
        .iter()
        .flat_map(|folder| std::fs::read_dir(own().join(folder)).unwrap())
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|ending| ending != "safetensors"))
        .collect();
    paths.sort();
    paths.iter().map(|path| std::fs::read(path).unwrap()).collect()
});

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4000))]

    #[test]
    fn no_damaged_file_makes_a_panic(
        file in 0..1000usize,
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..12),
        early in any::<bool>(),
        cut in prop::option::weighted(0.2, any::<prop::sample::Index>()),
        white in any::<bool>(),
    ) {
        let mut bytes = FILES[file % FILES.len()].clone();
        let reach = if early { bytes.len().min(64) } else { bytes.len() };
        for (place, value) in changes {
            bytes[place.index(reach)] = value;
        }
        if let Some(cut) = cut {
            bytes.truncate(cut.index(bytes.len()));
        }
        let limits = Limits { pixels: 1 << 20, bytes: 1 << 23 };
        let alpha = if white { Alpha::OnWhite } else { Alpha::Dropped };
        let size = dimensions(&bytes);
        if let Ok(picture) = decode(&bytes, alpha, limits) {
            prop_assert_eq!(size.unwrap(), (picture.width(), picture.height()));
            let qwen = json!({"image_processor_type": "Qwen2VLImageProcessor", "max_pixels": 6400});
            let tiles = TilesOptions { side: 32, max_side: 64, to_max_side: false, global: true };
            let small = picture.width().max(picture.height()) < 300;
            for processor in [Processor::from_config(&qwen, Some(Backend::Pillow)).unwrap(), Processor::nanovlm(tiles)] {
                if small && let Ok(pixels) = processor.process(&picture) {
                    drop(pixels);
                }
            }
        }
    }
}
