//! What processors make of pictures against transformers, torchvision and nanoVLM.

use grades_images::{
    Alpha, Backend, Filter, Layout, Limits, Pixels, Processor, Rule, TilesOptions, Values, decode, dynamic_resize,
    smart_resize,
};
use serde_json::{Value, json};

use crate::fixture::{self, each_tensor, folder, integers, numbers, own, picture};

fn number(value: &Value) -> usize {
    value.as_u64().unwrap() as usize
}

fn values(pixels: &Pixels) -> &[f32] {
    match pixels {
        Pixels::Tiles(tiles) => &tiles.values,
        Pixels::Patches(patches) => &patches.values,
    }
}

fn most_apart(got: &[f32], wanted: &[f32]) -> f32 {
    got.iter().zip(wanted).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
}

fn qwen(options: &Value, backend: Backend) -> Processor {
    let mut file = options["qwen"].clone();
    file["temporal_patch_size"] = 2.into();
    file["image_processor_type"] = "Qwen2VLImageProcessor".into();
    Processor::from_config(&file, Some(backend)).unwrap()
}

fn siglip(options: &Value, backend: Backend) -> Processor {
    let file = json!({"image_processor_type": "SiglipImageProcessor", "size": options["siglip"]});
    Processor::from_config(&file, Some(backend)).unwrap()
}

fn nanovlm(options: &Value, to_max_side: bool) -> Processor {
    let options = &options["nanovlm"];
    let (side, max_side) = (number(&options["tile"]), number(&options["max_side"]));
    Processor::nanovlm(TilesOptions { side, max_side, to_max_side, global: true })
}

/// Pixels are those of both backends to the last bit; nanoVLM's global image, which sums in f32, to a few of them.
#[test]
fn pixels_are_those_of_the_reference_processors() {
    let options = fixture::json(folder().join("processors/options.json"));
    let images = folder().join("images");
    let (mut seen, mut grids) = (0, 0);
    each_tensor(folder().join("processors/expected.safetensors"), |full, wanted| {
        let parts: Vec<&str> = full.split('.').collect();
        let backend = match parts[1] {
            "torchvision" => Backend::Torchvision,
            _ => Backend::Pillow,
        };
        let processor = match parts[0] {
            "qwen" => qwen(&options, backend),
            "siglip" => siglip(&options, backend),
            "nanovlm" => nanovlm(&options, parts[1] == "to_max"),
            _ => return,
        };
        let file = picture(&images, parts[2]);
        let picture = decode(&file, processor.alpha, Limits::default()).unwrap();
        let got = processor.process(&picture).unwrap();
        let layout = processor.layout(picture.width(), picture.height()).unwrap();
        if parts.last() == Some(&"grid") {
            let Pixels::Patches(patches) = &got else { panic!("{full}: no patches") };
            assert_eq!(patches.grid.as_slice(), integers(&wanted), "{full}");
            assert_eq!(layout, Layout::Patches { grid: patches.grid, merge: 2 }, "{full}");
            grids += 1;
            return;
        }
        let wanted = numbers(&wanted);
        let got_values = values(&got);
        // of some pictures only the first tiles are kept
        assert!(got_values.len() == wanted.len() || parts[0] == "nanovlm" && got_values.len() > wanted.len(), "{full}");
        let most = most_apart(got_values, &wanted);
        println!("{full}: {most:e}");
        assert!(most <= if parts[0] == "nanovlm" { 3e-7 } else { 0.0 }, "{full}: {most:e}");
        if let Pixels::Tiles(tiles) = &got {
            assert_eq!(tiles.count, layout.tiles(), "{full}");
        }
        if let (Some(grid), Layout::Tiles { rows, columns, .. }) =
            (options["nanovlm"]["grids"].get(format!("{}.{}.{}", parts[0], parts[1], parts[2])), layout)
        {
            assert_eq!(*grid, json!([rows, columns]), "{full}");
        }
        seen += 1;
    });
    assert!(seen >= 26 && grids >= 14, "{seen} {grids}");
}

#[test]
fn dinov2s_pixels_are_those_of_both_backends() {
    let mut seen = 0;
    each_tensor(own().join("pictures/expected.safetensors"), |full, wanted| {
        let parts: Vec<&str> = full.split('.').collect();
        let ["dinov2", backend, sizes, name] = parts[..] else { return };
        let (edge, crop) = sizes.split_once('_').unwrap();
        let (edge, crop): (usize, usize) = (edge.parse().unwrap(), crop.parse().unwrap());
        let file = json!({
            "crop_size": {"height": crop, "width": crop}, "do_center_crop": true, "do_convert_rgb": true,
            "do_normalize": true, "do_rescale": true, "do_resize": true, "image_mean": [0.485, 0.456, 0.406],
            "image_processor_type": "BitImageProcessor", "image_std": [0.229, 0.224, 0.225], "resample": 3,
            "rescale_factor": 0.00392156862745098, "size": {"shortest_edge": edge},
        });
        let backend = if backend == "pil" { Backend::Pillow } else { Backend::Torchvision };
        let processor = Processor::from_config(&file, Some(backend)).unwrap();
        let picture = decode(&picture(&own().join("images"), name), processor.alpha, Limits::default()).unwrap();
        let got = processor.process(&picture).unwrap();
        let Pixels::Tiles(tiles) = &got else { panic!("{full}: no whole picture") };
        assert_eq!([3, tiles.height, tiles.width], wanted.shape(), "{full}");
        assert_eq!(most_apart(&tiles.values, &numbers(&wanted)), 0.0, "{full}");
        seen += 1;
    });
    assert_eq!(seen, 12);
}

#[test]
fn sizes_follow_both_rules() {
    let sizes = fixture::json(folder().join("processors/sizes.json"));
    let rows = |name: &str| sizes[name]["rows"].as_array().unwrap().clone();
    for row in rows("smart_resize") {
        let n: Vec<usize> = row.as_array().unwrap().iter().map(number).collect();
        assert_eq!(smart_resize(n[0], n[1], n[2], n[3], n[4]).unwrap(), (n[5], n[6]), "{row}");
    }
    assert!(smart_resize(1, 201, 28, 3136, 1 << 20).is_err());
    for row in rows("nanovlm_dynamic_resize") {
        let n: Vec<usize> = row.as_array().unwrap().iter().map(|v| v.as_u64().unwrap_or(0) as usize).collect();
        let got = dynamic_resize(n[0], n[1], n[2], n[3], row[4].as_bool().unwrap());
        assert_eq!(got, (n[5], n[6]), "{row}");
    }
}

#[test]
fn both_forms_of_the_file_describe_one_processor() {
    let read = |file: Value| Processor::from_config(&file, None).unwrap();
    let (mean, std) = ([0.48145466, 0.4578275, 0.40821073], [0.26862954, 0.26130258, 0.27577711]);
    let old = json!({"min_pixels": 384, "max_pixels": 1664, "patch_size": 4, "temporal_patch_size": 2, "merge_size": 2,
        "image_mean": mean, "image_std": std, "image_processor_type": "Qwen2VLImageProcessor",
        "processor_class": "Qwen2_5_VLProcessor"});
    let new = json!({"processor_class": "Qwen2_5_VLProcessor", "video_processor": {"anything": 1}, "image_processor": {
        "do_convert_rgb": true, "do_normalize": true, "do_rescale": true, "do_resize": true, "image_mean": mean,
        "image_std": std, "image_processor_type": "Qwen2VLImageProcessorFast", "merge_size": 2, "patch_size": 4, "resample": 3,
        "rescale_factor": 0.00392156862745098, "size": {"longest_edge": 1664, "shortest_edge": 384},
        "temporal_patch_size": 2, "do_center_crop": null}});
    let processor = read(old.clone());
    assert_eq!(processor, read(new));
    let rule = Rule::Patches { patch: 4, merge: 2, frames: 2, min_pixels: 384, max_pixels: 1664 };
    let values = Values::new(Some(0.00392156862745098), Some((mean, std)), Backend::Torchvision);
    let wanted =
        Processor { rule, filter: Filter::Bicubic, backend: Backend::Torchvision, alpha: Alpha::OnWhite, values };
    assert_eq!(processor, wanted);
    // a file that says next to nothing: the defaults of the code
    let bare = read(json!({"image_processor_type": "Qwen2VLImageProcessorPil"}));
    let rule = Rule::Patches { patch: 14, merge: 2, frames: 2, min_pixels: 3136, max_pixels: 1_003_520 };
    assert_eq!((bare.rule, bare.backend), (rule, Backend::Pillow));
    let siglip = read(json!({"image_processor_type": "SiglipImageProcessor", "size": 384}));
    assert_eq!(siglip.rule, Rule::Fixed { height: 384, width: 384 });
}

#[test]
fn what_would_change_the_pixels_is_refused_by_name() {
    let refused = |key: &str, value: Value| {
        let mut file = json!({"image_processor_type": "SiglipImageProcessor"});
        file[key] = value;
        Processor::from_config(&file, None).unwrap_err().to_string()
    };
    for (key, value) in [
        ("do_sharpen", json!(true)),
        ("resample", json!(1)),
        ("do_pad", json!(true)),
        ("image_mean", json!([0.5, 0.5])),
        ("image_std", json!([0.5, 0.0, 0.5])),
        ("rescale_factor", json!(0)),
        ("size", json!({"height": 0, "width": 3})),
        ("size", json!("large")),
        ("crop_size", json!(-3)),
    ] {
        let error = refused(key, value.clone());
        let named = if key == "size" && value.is_object() { "height" } else { key };
        assert!(error.contains(&format!("`{named}`")), "{key} {value}: {error}");
    }
    assert!(refused("size", json!({"max_height": 3})).contains("max_height"));
    for file in [json!({}), json!([]), json!({"image_processor_type": "Siglip2ImageProcessor"})] {
        assert!(Processor::from_config(&file, None).is_err());
    }
}

/// A patch embedding reads patches channel by channel and row by row.
#[test]
fn tiles_are_cut_into_patches() {
    let rgb = (0..2 * 4 * 3).collect();
    let picture = grades_images::Picture::new(4, 2, rgb).unwrap();
    let mut processor = Processor::nanovlm_fixed(4);
    processor.rule = Rule::Unchanged { crop: None };
    processor.values = Values::new(None, None, Backend::Torchvision);
    let Pixels::Tiles(tiles) = processor.process(&picture).unwrap() else { panic!("no whole picture") };
    let first = [0., 3., 12., 15., 1., 4., 13., 16., 2., 5., 14., 17.];
    let second = first.map(|x| x + 6.0);
    assert_eq!(tiles.patches(2), [first, second].concat());
}
