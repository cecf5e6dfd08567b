//! "Did you mean": the known word nearest to a mistyped one.

/// The nearest of `known`, when it is near enough that a slip of the fingers explains it.
pub(super) fn nearest<'a>(word: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let ranked = known.into_iter().map(|candidate| (distance(word, candidate), candidate));
    let (distance, candidate) = ranked.min()?;
    (distance <= 1 + word.chars().count() / 4).then_some(candidate)
}

/// Insertions, deletions, replacements and swaps of neighbours (optimal string alignment).
fn distance(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    let mut rows = vec![(0..=b.len()).collect::<Vec<_>>()];
    for i in 1..=a.len() {
        let mut row = vec![i];
        for j in 1..=b.len() {
            let replaced = rows[i - 1][j - 1] + usize::from(a[i - 1] != b[j - 1]);
            let mut least = replaced.min(rows[i - 1][j] + 1).min(row[j - 1] + 1);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                least = least.min(rows[i - 2][j - 2] + 1);
            }
            row.push(least);
        }
        rows.push(row);
    }
    rows[a.len()][b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slips_are_explained_and_strangers_are_not() {
        let known = ["listen", "advertise", "token_file"];
        assert_eq!(nearest("lisetn", known), Some("listen"));
        assert_eq!(nearest("advertize", known), Some("advertise"));
        assert_eq!(nearest("tokenfile", known), Some("token_file"));
        assert_eq!(nearest("colour", known), None);
        assert_eq!(nearest("x", []), None);
    }
}
