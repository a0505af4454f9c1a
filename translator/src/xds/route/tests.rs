use super::*;

#[test]
fn fractions_are_exact_where_envoy_can() {
    for ((numerator, denominator), expected, kind) in [
        ((1, 2), 50, DenominatorType::Hundred),
        ((1, 8), 1250, DenominatorType::TenThousand),
        ((1, 3), 333_333, DenominatorType::Million),
        ((1, 1_000_000), 1, DenominatorType::Million),
    ] {
        let percent = value::fraction(numerator, denominator);
        assert_eq!((percent.numerator, percent.denominator()), (expected, kind), "{numerator}/{denominator}");
    }
}

#[test]
fn a_mirror_of_all_has_no_fraction_and_of_none_is_no_mirror() {
    let mirror = |fraction| mirror(&Mirror { cluster: "a/b/80".into(), fraction });
    assert_eq!(mirror((0, 100)), None);
    assert_eq!(mirror((100, 100)).unwrap().runtime_fraction, None);
    assert!(mirror((1, 100)).unwrap().runtime_fraction.is_some());
}

#[test]
fn long_requests_are_not_cut_by_the_idle_limit() {
    assert_eq!(idle(None), None);
    let idle = |limit: Duration| super::idle(Some(value::duration(limit)));
    assert_eq!(idle(Duration::from_secs(10)), None);
    assert_eq!(idle(Duration::from_mins(10)), value::seconds(600));
    assert_eq!(idle(Duration::ZERO), value::seconds(0));
}
