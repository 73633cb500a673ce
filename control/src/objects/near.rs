//! Which word was meant by one that is not known.

/// The known word that a mistyped one most likely meant: one edit away, or one for each five letters.
pub fn near<'a>(word: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let lower = word.to_ascii_lowercase();
    let distance = |known: &str| strsim::osa_distance(&lower, &known.to_ascii_lowercase());
    let scored = known.into_iter().map(|known| (distance(known), known));
    let nearest = scored.min_by_key(|(distance, _)| *distance);
    nearest
        .filter(|(distance, known)| *distance <= 1 + known.len() / 5)
        .map(|(_, known)| known)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mistyped_word_is_recognised_and_another_one_is_not() {
        let known = ["Deployment", "DaemonSet", "Service"];
        assert_eq!(near("Deploymnet", known), Some("Deployment"));
        assert_eq!(near("service", known), Some("Service"));
        assert_eq!(near("CronJob", known), None);
        assert_eq!(near("mysql", ["http", "tls", "tcp"]), None);
        assert_eq!(near("htpp", ["http", "tls", "tcp"]), Some("http"));
    }
}
