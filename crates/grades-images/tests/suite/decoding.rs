//! Decoded pictures against Pillow's and transformers'.

use grades_images::{Alpha, DecodeError, Limits, decode, dimensions};
use safetensors::tensor::TensorView;

use crate::fixture::{each_tensor, folder, own, picture};

/// How far two pictures are apart: the largest and the mean difference of their bytes.
fn apart(got: &[u8], wanted: &[u8]) -> (u8, f64) {
    assert_eq!(got.len(), wanted.len());
    let all = got.iter().zip(wanted).map(|(a, b)| a.abs_diff(*b));
    (all.clone().max().unwrap(), all.map(f64::from).sum::<f64>() / got.len() as f64)
}

fn check(name: &str, file: &[u8], alpha: Alpha, wanted: &TensorView<'_>, bounds: (u8, f64)) {
    let picture = decode(file, alpha, Limits::default()).unwrap_or_else(|e| panic!("{name}: {e}"));
    assert_eq!([picture.height(), picture.width(), 3], wanted.shape(), "{name}");
    assert_eq!(dimensions(file).unwrap(), (picture.width(), picture.height()), "{name}");
    let (most, mean) = apart(picture.rgb(), wanted.data());
    println!("{name} {alpha:?}: most {most}, mean {mean:.3}");
    assert!(most <= bounds.0 && mean <= bounds.1, "{name} {alpha:?}: most {most}, mean {mean:.3}");
}

/// PNG exactly. JPEG to half a level on average and four at most, of which there may be one value in five hundred: chroma is
/// rounded in other places than by libjpeg.
#[test]
fn pictures_are_those_of_pillow() {
    let (mut seen, images) = (0, folder().join("images"));
    each_tensor(folder().join("processors/expected.safetensors"), |name, wanted| {
        let Some(name) = name.strip_prefix("decoded.") else { return };
        let file = picture(&images, name);
        let exact = file[0] == 0x89;
        check(name, &file, Alpha::Dropped, &wanted, if exact { (0, 0.0) } else { (4, 0.5) });
        let got = decode(&file, Alpha::Dropped, Limits::default()).unwrap();
        let far = got.rgb().iter().zip(wanted.data()).filter(|(a, b)| a.abs_diff(**b) > 3).count();
        assert!(far * 500 <= wanted.data().len(), "{name}: {far}");
        seen += 1;
    });
    assert!(seen >= 16);
}

#[test]
fn every_colour_type_is_that_of_pillow_with_transparency_dropped_or_on_white() {
    let (mut seen, pictures) = (0, own().join("pictures"));
    each_tensor(pictures.join("expected.safetensors"), |name, wanted| {
        let (alpha, name) = match name.split_once('.') {
            Some(("dropped", name)) => (Alpha::Dropped, name),
            Some(("white", name)) => (Alpha::OnWhite, name),
            _ => return,
        };
        let file = std::fs::read(pictures.join(name)).unwrap();
        // a lossy WebP file is decoded by other arithmetic than libwebp's
        let bounds = if name.starts_with("lossy") { (3, 0.5) } else { (0, 0.0) };
        check(name, &file, alpha, &wanted, bounds);
        seen += 1;
    });
    assert!(seen > 35, "{seen}");
}

#[test]
fn a_cut_file_is_refused_wherever_it_ends() {
    let folders = [folder().join("images"), own().join("pictures")];
    for entry in folders.iter().flat_map(|folder| std::fs::read_dir(folder).unwrap()) {
        let path = entry.unwrap().path();
        let moving = path.file_stem().is_some_and(|stem| stem == "moving");
        if moving || path.extension().is_some_and(|ending| ending == "safetensors") {
            continue; // the first frame of several may well be whole
        }
        let file = std::fs::read(&path).unwrap();
        for kept in [0, 1, 7, 20, file.len() / 3, file.len() / 2, file.len() * 3 / 4] {
            let name = path.display();
            let error =
                decode(&file[..kept], Alpha::Dropped, Limits::default()).map(drop).expect_err("a part is no picture");
            assert!(!error.to_string().is_empty(), "{name}");
            if kept == file.len() * 3 / 4 {
                assert!(matches!(error, DecodeError::Truncated { .. }), "{name}: {error}");
            }
        }
    }
}

#[test]
fn what_is_no_picture_or_a_giant_gets_a_sentence() {
    let read = |file: &[u8], limits| decode(file, Alpha::Dropped, limits).unwrap_err();
    assert_eq!(read(b"", Limits::default()), DecodeError::Empty);
    assert_eq!(read(b"<svg></svg>", Limits::default()), DecodeError::UnknownFormat);
    let wide = picture(&own().join("images"), "wide");
    let few = Limits { pixels: 90 * 50 - 1, ..Limits::default() };
    assert!(matches!(read(&wide, few), DecodeError::TooManyPixels { width: 90, height: 50, .. }));
    let little = Limits { bytes: 90 * 50 * 3 - 1, ..Limits::default() };
    assert!(matches!(read(&wide, little), DecodeError::TooManyBytes { bytes: 13500, .. }));
    // headers that promise a giant, with nothing or next to nothing behind them
    let mut png = wide.clone();
    png[16..24].copy_from_slice(&[0, 1, 0, 0, 0, 1, 0, 0]);
    let header = crc32(&png[12..29]);
    png[29..33].copy_from_slice(&header.to_be_bytes());
    assert!(matches!(read(&png, Limits::default()), DecodeError::TooManyPixels { width: 65536, .. }));
    for (name, place) in [("plain.gif", 6), ("rgb.bmp", 18)] {
        let mut file = std::fs::read(own().join("pictures").join(name)).unwrap();
        file[place..place + 2].fill(0xff);
        if name == "rgb.bmp" {
            file[place + 4..place + 6].fill(0xff);
        } else {
            file[place + 2..place + 4].fill(0xff);
        }
        assert!(matches!(read(&file, Limits::default()), DecodeError::TooManyPixels { width: 65535, .. }), "{name}");
    }
}

/// A PNG file of one pixel, the first of the palette.
fn with_palette(palette: &[u8]) -> Vec<u8> {
    let chunk = |kind: &[u8], data: &[u8]| {
        let named = [kind, data].concat();
        let length = u32::try_from(data.len()).unwrap().to_be_bytes();
        [&length[..], &named, &crc32(&named).to_be_bytes()].concat()
    };
    let header = [0, 0, 0, 1, 0, 0, 0, 1, 8, 3, 0, 0, 0];
    // A block of zlib that is stored as it is: no filter, colour 0.
    let pixel = [0x78, 0x01, 1, 2, 0, 0xfd, 0xff, 0, 0, 0, 2, 0, 1];
    let chunks = [chunk(b"IHDR", &header), chunk(b"PLTE", palette), chunk(b"IDAT", &pixel), chunk(b"IEND", &[])];
    [&b"\x89PNG\r\n\x1a\n"[..], &chunks.concat()].concat()
}

#[test]
fn a_palette_of_parts_of_colours_is_refused() {
    let read = |palette: &[u8]| decode(&with_palette(palette), Alpha::Dropped, Limits::default());
    assert_eq!(read(&[10, 20, 30]).unwrap().rgb(), [10, 20, 30]);
    assert_eq!(read(&[[10, 20, 30]; 256].concat()).unwrap().rgb(), [10, 20, 30]);
    for palette in [&[][..], &[10], &[10, 20, 30, 40], &[10; 771]] {
        assert!(matches!(read(palette), Err(DecodeError::Damaged { .. })), "{} bytes", palette.len());
    }
}

fn crc32(bytes: &[u8]) -> u32 {
    let step = |crc: u32| if crc & 1 == 1 { crc >> 1 ^ 0xedb8_8320 } else { crc >> 1 };
    !bytes.iter().fold(!0, |crc, &byte| (0..8).fold(crc ^ u32::from(byte), |crc, _| step(crc)))
}
