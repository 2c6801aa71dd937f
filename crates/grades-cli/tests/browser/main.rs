//! The pages of reports and comparisons in headless Chromium: the one that `GRADES_TEST_BROWSER` names, or one on the path
//! (`./get-browser` finds or installs one). Without any the test says that it is skipped.

#![expect(clippy::disallowed_methods, reason = "tests make the files that they need")]

#[cfg(test)]
mod behaviour;
#[cfg(test)]
mod chromium;
#[cfg(test)]
mod pages;
