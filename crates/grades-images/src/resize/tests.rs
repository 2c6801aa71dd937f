use serde_json::Value;

use super::*;

/// What `fixtures/vision/make_resize.py` recorded of Pillow 13, torchvision 0.29 and PyTorch 2.15: sums over a picture that both
/// sides make, in 69 sizes, among them those at which Pillow 13 turns its passes round.
#[test]
fn every_byte_is_that_of_pillow_and_of_torchvision() {
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/../../fixtures/vision/resize.json");
    let recorded: Value = serde_json::from_slice(&std::fs::read(file).unwrap()).unwrap();
    let rows = recorded["rows"].as_array().unwrap();
    assert!(rows.len() > 60);
    for row in rows {
        let size = |i: usize| row[i].as_u64().unwrap() as usize;
        let (height, width, to) = (size(0), size(1), (size(3), size(2)));
        let bytes: Vec<u8> =
            (0..(height * width * 3) as u64).map(|i| ((i * 7919 + i * i / 13 * 31) % 256) as u8).collect();
        let picture = Picture::new(width, height, bytes).unwrap();
        let cases = [
            (4, Filter::Bilinear, Backend::Pillow),
            (5, Filter::Bilinear, Backend::Torchvision),
            (6, Filter::Bicubic, Backend::Pillow),
            (7, Filter::Bicubic, Backend::Torchvision),
        ];
        for (column, filter, backend) in cases {
            let got = resize(&picture, to.0, to.1, filter, backend);
            assert_eq!(u64::from(crc32(got.rgb())), row[column].as_u64().unwrap(), "{row} {filter:?} {backend:?}");
        }
        let numbers: Vec<f32> = picture.rgb().iter().map(|&b| f32::from(b) / 255.0).collect();
        let got = resize_values(&numbers, (width, height), to, Filter::Bilinear);
        let sum: f64 = got.iter().enumerate().map(|(i, &x)| f64::from(x) * (i as f64).sin()).sum();
        let wanted = row[8].as_f64().unwrap();
        assert!((sum - wanted).abs() < 1e-7 * got.len() as f64, "{row}: {sum}");
    }
}

fn crc32(bytes: &[u8]) -> u32 {
    let step = |crc: u32| if crc & 1 == 1 { crc >> 1 ^ 0xedb8_8320 } else { crc >> 1 };
    !bytes.iter().fold(!0, |crc, &byte| (0..8).fold(crc ^ u32::from(byte), |crc, _| step(crc)))
}
