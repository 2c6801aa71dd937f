//! VQA v2 (Goyal et al. 2017): ten people's answers, of which three that agree make one right.

/// When answers are cleaned before they are compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cleaning {
    /// Only where the people do not all say the same: the official program, and lmms-eval up to 0.4.0.
    UnlessUnanimous,
    /// Always: lmms-eval from 0.4.1 on.
    Always,
}

/// The accuracy of `said` in the light of people's `answers`: for each of them, whether three of the others say it, or what
/// share of three; and the mean of that.
pub fn accuracy(said: &str, answers: &[&str], cleaning: Cleaning) -> f64 {
    let plain: Vec<String> = answers.iter().map(|answer| line(answer)).collect();
    let unanimous = plain.iter().all(|answer| *answer == plain[0]);
    let compared = |text: String| match cleaning {
        Cleaning::UnlessUnanimous if unanimous => text,
        _ => words(&without_punctuation(&text)),
    };
    let said = compared(line(said));
    let agreeing = plain.into_iter().filter(|answer| compared(answer.clone()) == said).count();
    if answers.is_empty() {
        return 0.0;
    }
    // an answer that agrees has one other fewer that does
    let score = |others: usize| (others as f64 / 3.0).min(1.0);
    let rest = answers.len() - agreeing;
    (rest as f64 * score(agreeing) + agreeing as f64 * score(agreeing.saturating_sub(1))) / answers.len() as f64
}

/// An answer as it is compared.
pub fn clean(answer: &str) -> String {
    words(&without_punctuation(&line(answer)))
}

fn line(text: &str) -> String {
    text.replace(['\n', '\t'], " ").trim().to_owned()
}

const PUNCTUATION: &str = ";/[]\"{}()=+\\_-><@`,?!";

/// The most full stops that are taken away: a flag of the original stands where a count belongs.
const MOST_STOPS: usize = 32;

/// A sign beside a space goes, wherever else it stands too, and all go where digits have a comma between them; of the others
/// each becomes a space. Full stops go unless a digit follows.
fn without_punctuation(text: &str) -> String {
    let number = comma_between_digits(text);
    let mut out = text.to_owned();
    for sign in PUNCTUATION.chars() {
        let beside_space = text.contains(&format!("{sign} ")) || text.contains(&format!(" {sign}"));
        out = out.replace(sign, if beside_space || number { "" } else { " " });
    }
    let (mut stops, letters) = (0, out.chars().collect::<Vec<_>>());
    let kept = letters.iter().enumerate().filter(|(i, letter)| {
        let goes = **letter == '.' && !letters.get(i + 1).is_some_and(char::is_ascii_digit) && stops < MOST_STOPS;
        stops += usize::from(goes);
        !goes
    });
    kept.map(|(_, letter)| letter).collect()
}

fn comma_between_digits(text: &str) -> bool {
    let digit_before = |before: &str| before.ends_with(|c: char| c.is_ascii_digit());
    text.match_indices(',').any(|(at, _)| {
        let before = text[..at].trim_end_matches(',');
        let after = text[at..].trim_start_matches(',');
        digit_before(before) && after.starts_with(|c: char| c.is_ascii_digit())
    })
}

/// Small letters, numbers as digits, no articles, apostrophes where they are left out.
fn words(text: &str) -> String {
    let lower = text.to_lowercase();
    let words = lower.split_whitespace().map(digits).filter(|word| !["a", "an", "the"].contains(word));
    words.map(with_apostrophe).collect::<Vec<_>>().join(" ")
}

fn digits(word: &str) -> &str {
    match word {
        "none" | "zero" => "0",
        "one" => "1",
        "two" => "2",
        "three" => "3",
        "four" => "4",
        "five" => "5",
        "six" => "6",
        "seven" => "7",
        "eight" => "8",
        "nine" => "9",
        "ten" => "10",
        _ => word,
    }
}

/// The words whose apostrophe people leave out, as they are written with it: the official list, and no other word of the kind.
const CONTRACTED: &str = "ain't aren't can't could've couldn't couldn't've didn't doesn't don't hadn't hadn't've hasn't \
    haven't he'd he'd've he's how'd how'll how's isn't it'd it'd've it'll ma'am mightn't mightn't've might've mustn't \
    must've needn't not've o'clock oughtn't shan't she'd've should've shouldn't shouldn't've somebody'd've somebody'll \
    somebody's someone'd someone'd've someone'll someone's something'd something'd've something'll that's there'd \
    there'd've there're there's they'd they'd've they'll they're they've 'twas wasn't we'd've we've weren't what'll \
    what're what's what've when's where'd where's where've who'd who'd've who'll who's who've why'll why're why's won't \
    would've wouldn't wouldn't've y'all y'all'll y'all'd've you'd you'd've you'll you're you've";

/// The word with the apostrophe that it lacks; of several it may lack one.
fn with_apostrophe(word: &str) -> String {
    // what the list has beside its pattern
    match word {
        "somebody'd" => return "somebodyd".to_owned(),
        "ow's'at" | "'ows'at" | "'ow'sat" => return "'ow's'at".to_owned(),
        _ => {}
    }
    let lacks_one =
        |full: &&str| full.match_indices('\'').any(|(at, _)| [&full[..at], &full[at + 1..]].concat() == word);
    CONTRACTED.split_whitespace().find(lacks_one).unwrap_or(word).to_owned()
}
