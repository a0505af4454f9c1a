use super::*;

/// Requests beyond the pace of a stream wait for the next second: they are not lost, and nobody else waits with them.
#[test]
fn a_stream_is_read_at_its_pace() {
    let begin = Instant::now();
    let mut pace = Pace::new(begin);
    for second in 0..3 {
        let now = begin + Duration::from_secs(second) + Duration::from_millis(1);
        for _ in 0..REQUESTS_PER_SECOND {
            assert_eq!(pace.pause(now), None);
            pace.count();
        }
        let until = pace.pause(now).unwrap();
        assert!(until > now && until <= now + Duration::from_secs(1));
        assert_eq!(pace.pause(until), None);
    }
}
