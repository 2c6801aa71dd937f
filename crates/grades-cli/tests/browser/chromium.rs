//! Headless Chromium: what a page measures, and how it looks.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde::Deserialize;
use serde::de::DeserializeOwned;

/// Runs in the page, before its own script, and tells the frame around it what it found.
const PROBE: &str = "<script>\
const errors = [];\
addEventListener('error', event => errors.push(String(event.message)));\
addEventListener('load', () => {\
  const box = e => { const b = e.getBoundingClientRect(); return [b.left + scrollX, b.top + scrollY, b.width, b.height]; };\
  const shown = b => b[2] > 0 && b[3] > 0;\
  parent.postMessage(JSON.stringify({\
    window: innerWidth, width: document.documentElement.scrollWidth, height: document.documentElement.scrollHeight,\
    requests: performance.getEntriesByType('resource').map(entry => entry.name), errors,\
    figures: [...document.querySelectorAll('svg:not(.key)')].map(box).filter(shown),\
    tables: [...document.querySelectorAll('table')].map(box).filter(shown).length }), '*');\
});</script>";

/// What a page measures at some width, in pixels.
#[derive(Debug, Deserialize)]
pub(crate) struct Measures {
    /// Width of the window.
    pub(crate) window: f64,
    /// Width and height of all that is on the page.
    pub(crate) width: f64,
    pub(crate) height: f64,
    /// Addresses of everything that it asked for beside itself.
    pub(crate) requests: Vec<String>,
    pub(crate) errors: Vec<String>,
    /// Left, top, width and height of every drawing that shows.
    pub(crate) figures: Vec<[f64; 4]>,
    /// How many tables show.
    pub(crate) tables: usize,
}

/// Counts the colours in parts of a picture, which the browser itself decodes.
const COUNT: &str = "<!DOCTYPE html><meta charset=\"utf-8\"><body><img src=\"picture.png\"><script>\
addEventListener('load', () => {\
  const image = document.images[0], canvas = document.createElement('canvas');\
  canvas.width = image.naturalWidth; canvas.height = image.naturalHeight;\
  const context = canvas.getContext('2d', { willReadFrequently: true });\
  context.drawImage(image, 0, 0);\
  const count = ([left, top, width, height]) => {\
    const pixels = new Uint32Array(context.getImageData(left, top, width, height).data.buffer), colours = new Map();\
    for (const pixel of pixels) colours.set(pixel, (colours.get(pixel) || 0) + 1);\
    return { pixels: pixels.length, paper: Math.max(...colours.values()), colours: colours.size };\
  };\
  const found = document.createElement('output');\
  found.textContent = JSON.stringify({ width: canvas.width, height: canvas.height,\
    corner: [...context.getImageData(0, 0, 1, 1).data.slice(0, 3)], parts: PARTS.map(count) });\
  document.body.append(found);\
});</script>";

/// How a page looks.
#[derive(Debug, Deserialize)]
pub(crate) struct Picture {
    pub(crate) width: usize,
    pub(crate) height: usize,
    /// Red, green and blue of the first pixel.
    pub(crate) corner: [u32; 3],
    pub(crate) parts: Vec<Part>,
}

/// The colours in a part of a picture.
#[derive(Debug, Deserialize)]
pub(crate) struct Part {
    /// Pixels of it.
    pub(crate) pixels: usize,
    /// Those of the commonest colour.
    pub(crate) paper: usize,
    /// Different colours.
    pub(crate) colours: usize,
}

pub(crate) struct Chromium {
    program: PathBuf,
    folder: PathBuf,
}

impl Chromium {
    /// A browser with `folder` for its files.
    pub(crate) fn find(folder: &Path) -> Option<Self> {
        const NAMES: [&str; 4] = ["chromium", "google-chrome", "google-chrome-stable", "chromium-browser"];
        let named = env::var_os("GRADES_TEST_BROWSER").filter(|name| !name.is_empty()).map(PathBuf::from);
        let works =
            |program: &PathBuf| Command::new(program).arg("--version").output().is_ok_and(|o| o.status.success());
        if let Some(program) = &named {
            assert!(works(program), "GRADES_TEST_BROWSER: {} is no browser that runs", program.display());
        }
        let program = named.or_else(|| NAMES.iter().map(PathBuf::from).find(works))?;
        Some(Self { program, folder: folder.to_owned() })
    }

    fn run(&self, dark: bool, arguments: &[String]) -> Output {
        let output = Command::new(&self.program)
            .args(["--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--enable-logging=stderr"])
            .args([
                "--disable-background-networking",
                "--no-first-run",
                "--allow-file-access-from-files",
                "--virtual-time-budget=3000",
            ])
            .arg(format!("--blink-settings=preferredColorScheme={}", u8::from(!dark)))
            .arg(format!("--user-data-dir={}", self.folder.join("profile").display()))
            .args(arguments)
            .output()
            .unwrap();
        let log = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "the browser failed: {log}");
        let complaints: Vec<&str> = log.lines().filter(|line| line.contains(":CONSOLE")).collect();
        assert!(complaints.is_empty(), "the console says {complaints:?}");
        output
    }

    /// What `page` measures in a window of this width. In a frame, as the window of a browser has a least width.
    pub(crate) fn measure(&self, page: &Path, width: usize) -> Measures {
        let html = fs::read_to_string(page).unwrap();
        assert!(!html.contains("<script src"), "{}: the page has a script from elsewhere", page.display());
        fs::write(self.folder.join("probed.html"), html.replacen("</head>", &format!("{PROBE}</head>"), 1)).unwrap();
        let frame = format!(
            "<!DOCTYPE html><meta charset=\"utf-8\"><script>addEventListener('message', event => {{ const found = \
             document.createElement('output'); found.textContent = event.data; document.body.append(found); }})</script>\
             <body><iframe src=\"probed.html\" style=\"border:0;width:{width}px;height:800px\"></iframe>"
        );
        let path = self.folder.join("frame.html");
        fs::write(&path, frame).unwrap();
        self.output_of(&path)
    }

    /// What a script finds that acts in `page`, which writes it into an `<output>` as JSON.
    pub(crate) fn act<T: DeserializeOwned>(&self, page: &Path, script: &str) -> T {
        let html = fs::read_to_string(page).unwrap();
        let path = self.folder.join("acted.html");
        fs::write(&path, html.replacen("</body>", &format!("<script>{script}</script></body>"), 1)).unwrap();
        self.output_of(&path)
    }

    /// How `page` looks in a window of this size, by parts (left, top, width, height).
    pub(crate) fn picture(&self, page: &Path, [width, height]: [usize; 2], dark: bool, parts: &[[f64; 4]]) -> Picture {
        let path = self.folder.join("picture.png");
        let size = format!("--window-size={width},{height}");
        self.run(dark, &[size, format!("--screenshot={}", path.display()), page.display().to_string()]);
        let counting = self.folder.join("counting.html");
        fs::write(&counting, COUNT.replace("PARTS", &serde_json::to_string(parts).unwrap())).unwrap();
        self.output_of(&counting)
    }

    /// The JSON that a page of ours writes into an `<output>`.
    fn output_of<T: DeserializeOwned>(&self, page: &Path) -> T {
        let output = self.run(false, &["--dump-dom".to_owned(), page.display().to_string()]);
        let dom = String::from_utf8(output.stdout).unwrap();
        let found = dom.rsplit_once("<output>").and_then(|(_, rest)| rest.split_once("</output>"));
        serde_json::from_str(found.unwrap_or_else(|| panic!("the page did not load: {dom}")).0).unwrap()
    }
}
