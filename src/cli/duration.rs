//! Lengths of time as people write them: `90s`, `5m`, `1h`, `250ms`.

use std::time::Duration;

/// For clap: a number and its unit.
pub(super) fn parse(text: &str) -> Result<Duration, String> {
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let milliseconds = match unit {
        "ms" => Some(1),
        "s" => Some(1_000),
        "m" => Some(60_000),
        "h" => Some(3_600_000),
        _ => None,
    };
    let number: Option<u64> = number.parse().ok();
    let total = number.zip(milliseconds).and_then(|(number, unit)| number.checked_mul(unit));
    match total.filter(|total| *total <= 30 * 86_400_000) {
        Some(total) => Ok(Duration::from_millis(total)),
        None => Err(format!("{text:?} is not a length of time: write 250ms, 90s, 5m or 1h")),
    }
}

/// To the second, the two largest units: `2m 5s`.
pub(super) fn show(seconds: u64) -> String {
    match seconds {
        0..60 => format!("{seconds}s"),
        60..3_600 => format!("{}m {}s", seconds / 60, seconds % 60),
        _ => format!("{}h {}m", seconds / 3_600, seconds / 60 % 60),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_have_units() {
        assert_eq!(parse("250ms"), Ok(Duration::from_millis(250)));
        assert_eq!(parse("5m"), Ok(Duration::from_secs(300)));
        for bad in ["", "5", "m", "-1s", "5 m", "1.5h", "99999999999h", "800h"] {
            assert!(parse(bad).is_err(), "{bad:?}");
        }
        assert_eq!(show(125), "2m 5s");
        assert_eq!(show(7_260), "2h 1m");
    }
}
