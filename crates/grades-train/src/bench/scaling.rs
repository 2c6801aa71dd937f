//! What a step would be on more threads than there are processors: its jobs counted, and the share that waits.

use std::collections::BTreeMap;

use grades_kernels::{Job, Simulation};
use serde::Serialize;

/// What handing out a job takes for each thread, in seconds: a cache line goes to it and comes back. A usual figure within one
/// processor, **not measured**; between two sockets it is a few times as much.
const BARRIER: f64 = 100e-9;
/// Most threads that are simulated.
pub(super) const MOST_THREADS: usize = 1024;

/// A step on a number of threads.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Scaling {
    /// The threads.
    pub threads: usize,
    /// Jobs of a step, each with a barrier at its end.
    pub jobs: usize,
    /// Their items.
    pub items: usize,
    /// The step, if memory were as fast for all threads as for one.
    pub step_seconds: f64,
    /// How much faster that is than one thread.
    pub speedup: f64,
    /// Share of all threads' time that is lost as only one of them works outside of jobs,
    pub lost_outside: f64,
    /// as threads wait for the last one of a job,
    pub lost_uneven: f64,
    /// and as jobs are handed out (by an assumed cost).
    pub lost_barriers: f64,
    /// Share of the work that is in jobs of fewer items than there are threads.
    pub short_of_items: f64,
    /// Where jobs are handed out, the greatest loss first.
    pub places: Vec<Place>,
}

/// All jobs of one place in the kernels.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Place {
    /// The file and line.
    pub place: String,
    /// The jobs.
    pub jobs: usize,
    /// Items of the smallest of them.
    pub fewest_items: usize,
    /// Items of the largest.
    pub most_items: usize,
    /// Share of a step's work.
    pub work: f64,
    /// Share of all threads' time in which they wait there for the last one.
    pub lost: f64,
}

impl Scaling {
    pub(super) fn of(simulation: &Simulation) -> Self {
        let Simulation { threads, ref jobs, outside } = *simulation;
        let many = threads as f64;
        let sum = |of: fn(&Job) -> f64| jobs.iter().map(of).sum::<f64>();
        let (inside, longest) = (sum(|job| job.work.as_secs_f64()), sum(|job| job.longest.as_secs_f64()));
        let barriers = if threads > 1 { jobs.len() as f64 * many * BARRIER } else { 0.0 };
        let outside = outside.as_secs_f64();
        let step = (outside + longest + barriers).max(f64::MIN_POSITIVE);
        let all = many * step;
        let mut places: BTreeMap<String, Vec<&Job>> = BTreeMap::new();
        for job in jobs {
            places.entry(name(job)).or_default().push(job);
        }
        let place = |(place, jobs): (String, Vec<&Job>)| {
            let work: f64 = jobs.iter().map(|job| job.work.as_secs_f64()).sum();
            let longest: f64 = jobs.iter().map(|job| job.longest.as_secs_f64()).sum();
            let items = || jobs.iter().map(|job| job.items);
            Place {
                place,
                jobs: jobs.len(),
                fewest_items: items().min().unwrap_or(0),
                most_items: items().max().unwrap_or(0),
                work: work / (inside + outside).max(f64::MIN_POSITIVE),
                lost: (many * longest - work) / all,
            }
        };
        let mut places: Vec<Place> = places.into_iter().map(place).collect();
        places.sort_by(|a, b| b.lost.total_cmp(&a.lost));
        let short = jobs.iter().filter(|job| job.items < threads).map(|job| job.work.as_secs_f64()).sum::<f64>();
        Self {
            threads,
            jobs: jobs.len(),
            items: jobs.iter().map(|job| job.items).sum(),
            step_seconds: step,
            speedup: (inside + outside) / step,
            lost_outside: (many - 1.0) * outside / all,
            lost_uneven: (many * longest - inside) / all,
            lost_barriers: many * barriers / all,
            short_of_items: short / inside.max(f64::MIN_POSITIVE),
            places,
        }
    }
}

/// The place within the kernels.
fn name(job: &Job) -> String {
    let file = job.place.file().replace('\\', "/");
    let file = file.rsplit_once("grades-kernels/src/").map_or(file.as_str(), |(_, file)| file);
    format!("{file}:{}", job.place.line())
}

#[cfg(test)]
mod tests {
    use std::panic::Location;
    use std::time::Duration;

    use super::*;

    #[test]
    fn the_shares_of_all_threads_time_add_up() {
        let ms = Duration::from_millis;
        let job = |items, work, longest| Job { place: Location::caller(), items, work: ms(work), longest: ms(longest) };
        let jobs = vec![job(8, 80, 20), job(2, 20, 10)];
        let scaling = Scaling::of(&Simulation { threads: 4, jobs, outside: ms(10) });
        // 10 + 20 + 10 ms, and two jobs of four threads, for what takes 110 ms on one.
        let step = 0.04 + 8.0 * BARRIER;
        assert!((scaling.step_seconds - step).abs() < 1e-12);
        assert!((scaling.speedup - 0.11 / step).abs() < 1e-9);
        assert!((scaling.lost_uneven - 0.02 / (4.0 * step)).abs() < 1e-9);
        assert!((scaling.lost_outside - 0.03 / (4.0 * step)).abs() < 1e-9);
        let lost = scaling.lost_outside + scaling.lost_uneven + scaling.lost_barriers;
        assert!((lost + scaling.speedup / 4.0 - 1.0).abs() < 1e-9);
        assert!((scaling.short_of_items - 0.2).abs() < 1e-9);
        let [place]: [Place; 1] = scaling.places.try_into().unwrap();
        assert_eq!((place.jobs, place.fewest_items, place.most_items), (2, 2, 8));
        assert!((place.work - 100.0 / 110.0).abs() < 1e-9 && (place.lost - scaling.lost_uneven).abs() < 1e-9);
        assert!(place.place.contains("scaling.rs:"));
    }
}
