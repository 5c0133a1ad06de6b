//! The model of a lane from the outside: results in, corrections out.

use proptest::prelude::*;

use super::*;

/// Numbers in [-1, 1) that look like chance.
fn dice(seed: u64) -> impl FnMut() -> f64 {
    let mut state = seed;
    move || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (state >> 40) as f64 / f64::from(1 << 23) - 1.0
    }
}

fn task(features: &[f64]) -> Projected {
    let features: Vec<f32> = features.iter().map(|value| *value as f32).collect();
    project_v1(&features).unwrap()
}

fn by(off: f64) -> Against {
    Against { off, changed: false }
}

/// A task whose first feature is `first`, the others chance.
fn like(first: f64, length: usize, die: &mut impl FnMut() -> f64) -> Projected {
    let mut features: Vec<f64> = (0..length).map(|_| die()).collect();
    features[0] = first;
    task(&features)
}

/// So many results, each off by `slope` times its first feature and by noise.
fn taught(
    features: &mut Features,
    resource: ResourceIndex,
    (slope, noise): (f64, f64),
    results: u32,
) {
    let mut die = dice(11 + u64::from(resource));
    for _ in 0..results {
        let first = die();
        let task = like(first, 8, &mut die);
        let off = slope * first + noise * die();
        features.observe_v1(0, resource, &task, by(off));
    }
}

/// What a task whose first feature is `first` is moved by, the others at their mean.
fn moved(features: &Features, resource: ResourceIndex, first: f64) -> f64 {
    let mut plain = [0.0; 8];
    plain[0] = first;
    features.moved(0, resource, &task(&plain))
}

#[test]
fn it_counts_as_far_as_it_has_proved_itself() {
    // (what, slope, noise, results, what a task far from the mean is moved by: from, to)
    let check = |what: &str, slope: f64, noise: f64, results: u32, least: f64, most: f64| {
        let mut features = Features::default();
        taught(&mut features, 3, (slope, noise), results);
        let by = moved(&features, 3, 1.0);
        assert!((least..=most).contains(&by), "{what}: {by}");
        assert_eq!(features.are_proven(), by != 0.0, "{what}");
    };
    check("nothing seen", 0.5, 0.2, 0, 0.0, 0.0);
    check("too few", 0.5, 0.2, 60, 0.0, 0.0);
    check("some", 0.5, 0.2, 150, 0.1, 0.5);
    check("many", 0.5, 0.2, 2_000, 0.4, 0.7);
    check("the contrary", -0.5, 0.2, 2_000, -0.7, -0.4);
    check("a weak one", 0.1, 0.4, 300, 0.0, 0.0);
    check("noise", 0.0, 0.4, 5_000, 0.0, 0.0);
}

#[test]
fn noise_hardly_ever_counts() {
    let mut counted = 0;
    for resource in 0..100 {
        let (mut features, mut die) = (Features::default(), dice(100 + resource));
        for _ in 0..1_000 {
            let task = like(die(), 8, &mut die);
            features.observe_v1(0, 0, &task, by(0.4 * die()));
            counted += u32::from(features.are_proven());
        }
    }
    assert!(counted < 500, "{counted} of 100,000 results");
}

#[test]
fn resources_and_classes_stand_alone() {
    let mut features = Features::default();
    taught(&mut features, 3, (0.5, 0.1), 1_000);
    let plain = task(&[1.0; 8]);
    assert_ne!(features.moved(0, 3, &plain), 0.0);
    // Another resource, one that nobody has seen, and a class of which no task is known there.
    for (class, resource) in [(0, 2), (0, 9_000), (1, 3)] {
        assert_eq!(features.moved(class, resource, &plain), 0.0, "{class} {resource}");
    }
    features.forget(3);
    assert_eq!((features.moved(0, 3, &plain), features.are_proven()), (0.0, false));
}

#[test]
fn the_mean_of_a_class_is_the_posteriors_affair() {
    // A class all of whose tasks have the same features, and are better than the posterior has it.
    let (mut features, same) = (Features::default(), task(&[0.7, -0.2]));
    for _ in 0..2_000 {
        features.observe_v1(0, 0, &same, by(0.3));
    }
    assert_eq!(features.moved(0, 0, &same), 0.0);
}

#[test]
fn what_has_turned_round_is_dropped() {
    let mut features = Features::default();
    taught(&mut features, 0, (0.5, 0.1), 1_000);
    assert!(moved(&features, 0, 1.0) > 0.4);
    taught(&mut features, 0, (-0.5, 0.1), 40);
    assert_eq!(moved(&features, 0, 1.0), 0.0);
    taught(&mut features, 0, (-0.5, 0.1), 500);
    assert!(moved(&features, 0, 1.0) < -0.3);
}

#[test]
fn its_own_success_does_not_take_its_proof() {
    let (mut features, mut die) = (Features::default(), dice(9));
    let mut teach = |features: &mut Features, first: f64, usual: f64, changed: bool| {
        let task = like(first, 8, &mut die);
        let off = 0.4 * (first - usual) + 0.1 * die();
        features.observe_v1(0, 0, &task, Against { off: off.clamp(-1.0, 1.0), changed });
    };
    for number in 0..1_000 {
        teach(&mut features, if number % 2 == 0 { 1.0 } else { -1.0 }, 0.0, false);
    }
    let before = moved(&features, 0, 1.0) - moved(&features, 0, -1.0);
    // More than it was taught with: other features take nothing of its size here.
    assert!((0.8..1.3).contains(&before), "{before}");
    // From now on it gets what it is good at; the posterior notices after twenty results.
    for number in 0..3_000 {
        teach(&mut features, 1.0, if number < 20 { 0.0 } else { 1.0 }, number == 20);
    }
    assert!(moved(&features, 0, 1.0).abs() < 0.3, "{}", moved(&features, 0, 1.0));
    let after = moved(&features, 0, 1.0) - moved(&features, 0, -1.0);
    assert!(after > 0.5 * before, "{after} of {before}");
}

#[test]
fn the_length_that_most_have_is_followed() {
    let mut features = Features::default();
    let (short, mut die) = (task(&[0.5; 3]), dice(5));
    // One that somebody has tried once.
    features.observe_v1(0, 0, &short, by(0.1));
    taught(&mut features, 0, (0.5, 0.1), 1_000);
    assert!(moved(&features, 0, 1.0) > 0.4);
    assert_eq!((features.counts(&short), features.moved(0, 0, &short)), (false, 0.0));
    let before = features.clone();
    for _ in 0..usize::from(VOTES_MAX) {
        features.observe_v1(0, 0, &short, by(0.1));
    }
    assert_eq!(features.models, before.models, "what others send changes nothing");
    features.observe_v1(0, 0, &short, by(0.1));
    let first = like(0.5, 8, &mut die);
    assert_eq!((features.length, features.counts(&first)), (3, false), "deposed");
}

#[test]
fn memory_is_bounded() {
    let (mut features, one) = (Features::default(), task(&[0.5]));
    for number in 0..3_000 {
        features.observe_v1(number, 0, &one, by(0.1));
        features.observe_v1(0, number, &one, by(0.1));
    }
    let models = features.models.iter().flatten();
    assert_eq!(models.clone().count(), MODELS_MAX);
    assert!(models.map(|model| model.usual.len()).all(|classes| classes <= CLASSES_MAX));
    // A place that is free is taken by the next that answers.
    features.forget(17);
    features.observe_v1(0, 2_999, &one, by(0.1));
    assert!(features.models[2_999].is_some());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn whatever_comes_it_is_bounded_and_names_decide_nothing(
        results in proptest::collection::vec(
            (0u16..3, 0u16..3, proptest::collection::vec(any::<f32>(), 1..4), -1.0f64..=1.0, any::<bool>()),
            1..300,
        ),
        again in 1usize..6,
    ) {
        let (mut features, mut turned) = (Features::default(), Features::default());
        for _ in 0..again {
            for (class, resource, values, off, changed) in &results {
                // Other numbers never come as far as this: the codec refuses them.
                let values: Vec<f32> =
                    values.iter().map(|value| if value.is_finite() { *value } else { 1.0 }).collect();
                let Some(task) = project_v1(&values) else { continue };
                let by = features.moved(*class, *resource, &task);
                prop_assert!((-1.0..=1.0).contains(&by), "{by}");
                prop_assert_eq!(by, turned.moved(*class, 2 - resource, &task));
                let against = Against { off: *off, changed: *changed };
                features.observe_v1(*class, *resource, &task, against);
                turned.observe_v1(*class, 2 - resource, &task, against);
            }
        }
        for model in features.models.iter().flatten() {
            prop_assert!((0.0..=1.0).contains(&model.weight), "{}", model.weight);
        }
        let proven = features.models.iter().flatten().filter(|model| model.weight > 0.0);
        prop_assert_eq!(proven.count(), usize::from(features.proven));
        let bytes = postcard::to_allocvec(&features).unwrap();
        prop_assert_eq!(postcard::from_bytes::<Features>(&bytes).unwrap(), features);
    }
}
