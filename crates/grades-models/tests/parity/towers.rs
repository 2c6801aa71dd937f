//! Vision towers by themselves.

use grades_models::config::HfConfig;
use grades_models::model::{Encoder, Pictures};
use grades_models::parameters::Parameters;
use grades_models::registry;
use grades_models::source::LoadOptions;
use grades_tensor::{Dtype, Gradients, Tape};

use crate::fixture::{Values, assert_close, cpu, find_each, json, pictures};
use crate::steps::{Trained, check_in_bf16, check_steps};

/// A tower, pictures, and what its output should be: the loss is the mean square of how far it is from that.
struct Seen {
    tower: Encoder,
    pictures: Pictures,
    target: Vec<f32>,
}

impl Trained for Seen {
    fn parameters(&self) -> &Parameters {
        self.tower.parameters()
    }

    fn parameters_mut(&mut self) -> &mut Parameters {
        self.tower.parameters_mut()
    }

    fn outputs(&self) -> Vec<f32> {
        self.tower.hidden(&Tape::off(), &self.pictures).value.to_host().into_owned()
    }

    fn expected_outputs(&self, expected: &Values) -> Option<Vec<f64>> {
        expected.find("hidden_state").or_else(|| expected.find("logits")).map(<[f64]>::to_vec)
    }

    fn pass(&self) -> (f32, Gradients) {
        let tape = Tape::recording();
        let hidden = self.tower.hidden(&tape, &self.pictures);
        let count = self.target.len() as f32;
        let off: Vec<f32> =
            hidden.value.to_host().iter().zip(&self.target).map(|(found, target)| found - target).collect();
        let loss = off.iter().map(|off| f64::from(*off).powi(2)).sum::<f64>() / f64::from(count);
        let dy = cpu().from_host(off.iter().map(|off| 2.0 * off / count).collect(), hidden.value.shape());
        let mut gradients = Gradients::new(self.tower.parameters().slots());
        tape.backward(Some((&hidden, dy.cast(hidden.value.dtype()))), None, &mut gradients);
        (loss as f32, gradients)
    }
}

#[test]
fn towers_match_the_reference() {
    for (name, folder) in find_each(&["siglip", "vision/siglip_full", "dinov2"]) {
        let expected = Values::expected(&folder);
        for config in ["config.json", "config.v4.json"].iter().filter(|config| folder.join(config).exists()) {
            println!("{name}/{config}: checking");
            let seen = || {
                let config = HfConfig::new(json(&folder.join(config))).unwrap();
                let values = Values::read(&folder.join("model.safetensors"));
                let mut tower = registry::load_tower(&config, &values, LoadOptions::new(cpu())).unwrap();
                tower.parameters_mut().train();
                let pictures = pictures(tower.vision(), &expected, "");
                let target = expected.get("target").iter().map(|&value| value as f32).collect();
                Seen { tower, pictures, target }
            };
            check_steps(&folder, &mut seen());
            let mut seen = seen();
            seen.tower.set_dtype(Dtype::Bf16);
            check_in_bf16(&folder, &seen);
            if let Some(square) = expected.find("square.hidden_state") {
                seen.tower.set_dtype(Dtype::F32);
                seen.pictures = pictures(seen.tower.vision(), &expected, "square.");
                assert_close("outputs of pictures whose grid fits", &seen.outputs(), square);
            }
        }
    }
}
