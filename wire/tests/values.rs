//! The small values: what is parsed, what is cut, what is kept.

use std::net::SocketAddr;

use diskstream_wire::*;
use proptest::prelude::*;

#[test]
fn mac_addresses_as_people_write_them() {
    let mac = Mac([0x52, 0x54, 0x00, 0xab, 0xcd, 0xef]);
    for text in ["52:54:00:ab:cd:ef", "52-54-00-AB-CD-EF", "52:54:00:Ab:cD:eF"] {
        assert_eq!(text.parse(), Ok(mac), "{text}");
    }
    assert_eq!(mac.to_string(), "52:54:00:ab:cd:ef");
    assert_eq!(format!("{mac:?}"), "52:54:00:ab:cd:ef");
}

#[test]
fn what_is_no_mac_address() {
    let wrong = [
        "",
        ":",
        ":::::",
        "52",
        "52:54:00:12:34",
        "52:54:00:12:34:",
        "52:54:00:12:34:56:",
        ":52:54:00:12:34:56",
        "52:54:00:12:34:56:78",
        "52:54:00:12:34:5",
        "52:54:00:12:34:567",
        "5:54:00:12:34:56",
        "+2:54:00:12:34:56",
        "52:54:00:12:34:g0",
        "52:54:00:12:34:5 ",
        " 52:54:00:12:34:56",
        "52:54:00:12:34:é",
        "525400123456",
        "5254.0012.3456",
        "52 54 00 12 34 56",
        "0x52:54:00:12:34:56",
    ];
    for text in wrong {
        assert_eq!(text.parse::<Mac>(), Err(BadMac), "{text:?}");
    }
    assert!(BadMac.to_string().contains("52:54:00:12:34:56"), "the error shows how it should look");
}

#[test]
fn endpoints_are_canonical_both_ways() {
    for text in ["10.20.30.40:6910", "[2001:db8::7]:6911", "127.0.0.1:1", "[::1]:65535"] {
        let addr: SocketAddr = text.parse().unwrap();
        let endpoint = Endpoint::from(addr);
        assert_eq!(endpoint.socket_addr(), Some(addr));
        assert_eq!(format!("{endpoint:?}"), text);
    }
    let mapped: SocketAddr = "[::ffff:10.20.30.40]:6910".parse().unwrap();
    let plain: SocketAddr = "10.20.30.40:6910".parse().unwrap();
    assert_eq!(Endpoint::from(mapped), Endpoint::from(plain), "one peer has one spelling");
    assert_eq!(canonical(mapped), plain);
    assert_eq!(canonical(plain), plain);
    let v6: SocketAddr = "[2001:db8::7]:6911".parse().unwrap();
    assert_eq!(canonical(v6), v6);
}

#[test]
fn endpoints_that_name_nobody() {
    assert_eq!(Endpoint::NONE, Endpoint::default());
    for text in ["0.0.0.0:0", "0.0.0.0:6910", "[::]:6910", "10.0.0.1:0", "[2001:db8::7]:0"] {
        let endpoint = Endpoint::from(text.parse::<SocketAddr>().unwrap());
        assert_eq!(endpoint.socket_addr(), None, "{text}");
        assert_eq!(format!("{endpoint:?}"), "none", "{text}");
    }
    assert_eq!(Endpoint::from(NO_ADDR).socket_addr(), None);
}

#[test]
fn text_is_cut_at_a_character() {
    assert_eq!(Text::<4>::new("").as_str(), "");
    assert_eq!(Text::<4>::new("abcd").as_str(), "abcd");
    assert_eq!(Text::<4>::new("abcde").as_str(), "abcd");
    assert_eq!(Text::<4>::new("aébc").as_str(), "aéb");
    assert_eq!(Text::<4>::new("abcé").as_str(), "abc", "é has two bytes, and only one fits");
    assert_eq!(Text::<4>::new("𝄞x").as_str(), "𝄞");
    assert_eq!(Text::<3>::new("𝄞x").as_str(), "");
    assert_eq!(Text::<0>::new("x").as_str(), "");
    assert_eq!(Text::<4>::new("a\0b").as_str(), "a", "a zero ends the text");
    assert_eq!(format!("{:?}", Text::<8>::new("a\"b")), "\"a\\\"b\"");
}

#[test]
fn text_that_is_no_utf8_is_cut_there() {
    for (raw, text) in [
        (*b"ab\xffd", "ab"),
        (*b"\xffbcd", ""),
        (*b"abc\xc3", "abc"),
        (*b"a\0\xff\xff", "a"),
        (*b"\0abc", ""),
    ] {
        assert_eq!(Text::<4>::load(&raw).as_str(), text, "{raw:?}");
        let mut kept = [0; 4];
        Text::<4>::load(&raw).store(&mut kept);
        assert_eq!(kept, raw, "a text that is passed on is passed on unchanged");
    }
}

proptest! {
    #[test]
    fn text_is_the_longest_start_that_fits(text in "[^\0]{0,40}") {
        let kept = Text::<32>::new(&text);
        let longest = (0..=text.len().min(32)).rev().find(|&n| text.is_char_boundary(n)).unwrap();
        prop_assert_eq!(kept.as_str(), &text[..longest]);
    }

    #[test]
    fn any_bytes_are_some_text(raw in any::<[u8; 16]>()) {
        let text = Text::<16>::load(&raw);
        prop_assert!(raw.starts_with(text.as_str().as_bytes()));
        prop_assert!(!text.as_str().contains('\0'));
    }

    #[test]
    fn any_mac_is_read_back_as_it_is_shown(raw in any::<[u8; 6]>()) {
        prop_assert_eq!(Mac(raw).to_string().parse(), Ok(Mac(raw)));
    }

    #[test]
    fn any_text_is_a_mac_or_not(text in "\\PC{0,24}") {
        let _ = text.parse::<Mac>();
    }

    #[test]
    fn any_endpoint_comes_back(address in any::<[u8; 16]>(), port in any::<u16>()) {
        let endpoint = Endpoint { address, port };
        if let Some(addr) = endpoint.socket_addr() {
            prop_assert_eq!(Endpoint::from(addr), endpoint);
            prop_assert_eq!(canonical(addr), addr);
        }
    }
}

/// Numbers that this version does not know are kept; the known ones have one meaning and one label each.
macro_rules! check_meaning {
    ($($name:ident),*) => {$(
        let mut labels = std::collections::BTreeSet::new();
        for &(value, code, label) in $name::ALL {
            assert_eq!(($name::from_code(code), value.code(), value.label()), (value, code, label));
            assert_eq!(value.to_string(), label);
            assert!(labels.insert(label), "{label} twice in {}", stringify!($name));
            assert!(label.bytes().all(|c| c.is_ascii_lowercase() || c == b'_'), "{label}");
        }
        for code in 0..=u8::MAX {
            let value = $name::from_code(code);
            assert_eq!(value.code(), code, "{}", stringify!($name));
            let known = $name::ALL.iter().any(|&(_, c, _)| c == code);
            assert_eq!(value == $name::Other(code), !known);
            if !known {
                assert_eq!((value.label(), value.to_string()), ("other", format!("other ({code})")));
            }
            let mut byte = [0];
            value.store(&mut byte);
            assert_eq!($name::load(&byte), value);
        }
        assert_eq!($name::default().code(), 0);
    )*};
}

#[test]
fn unknown_numbers_are_kept() {
    check_meaning!(
        LoginKind,
        RejectReason,
        BusyReason,
        ReadErrorCode,
        ImageMode,
        WriteCacheType,
        NoticeReason,
        CloseReason,
        SessionRole,
        MoveReason
    );
}

#[test]
fn marks_and_abilities() {
    let both = Flags::DRAINING.with(Flags::SINGLE);
    assert!(both.has(Flags::DRAINING) && both.has(Flags::SINGLE) && both.has(Flags::NONE));
    assert!(!both.has(Flags::HEDGED) && !both.has(Flags::HEDGED.with(Flags::SINGLE)));
    let marks = [
        Flags::DRAINING,
        Flags::AUTHENTICATED,
        Flags::SINGLE,
        Flags::HEDGED,
        Flags::AGAIN,
        Flags::QUEUED,
    ];
    for (bit, mark) in marks.into_iter().enumerate() {
        assert_eq!(mark.0, 1 << bit, "{}", Flags::NAMES[bit]);
    }
    assert_eq!(marks.len(), Flags::NAMES.len());

    let bits = [
        Capabilities::ZERO_MARKS,
        Capabilities::JUMBO,
        Capabilities::EXTENTS,
        Capabilities::WRITES,
        Capabilities::AUTHENTICATED,
        Capabilities::ENCRYPTED,
        Capabilities::STANDBY,
    ];
    for (bit, &ability) in bits.iter().enumerate() {
        assert_eq!(ability, 1 << bit, "{}", Capabilities::NAMES[bit]);
    }
    assert_eq!(bits.len(), Capabilities::NAMES.len());
    let common = Capabilities(0b0111).common(Capabilities(0b1101));
    assert_eq!(common, Capabilities(0b0101));
    assert!(common.has(Capabilities::ZERO_MARKS | Capabilities::EXTENTS));
    assert!(!common.has(Capabilities::JUMBO));
    for not_yet in [Capabilities::WRITES, Capabilities::AUTHENTICATED, Capabilities::ENCRYPTED] {
        assert!(!Capabilities::OURS.has(not_yet), "nobody is told of what is not there");
    }
}

#[test]
fn content_ids_are_shown_as_b3sum_shows_them() {
    let mut id = ContentId::default();
    id.0[0] = 0xaf;
    id.0[31] = 0x01;
    assert_eq!(id.to_string(), format!("af{}01", "00".repeat(30)));
    assert_eq!(id.generation(), 0xaf00_0000_0000_0000);
}

#[test]
fn time_saturates() {
    let second = Nanos::from_secs(1);
    assert_eq!(second, Nanos::from_millis(1000));
    assert_eq!(second, Nanos::from_micros(1_000_000));
    assert_eq!((second.as_millis(), second.as_micros()), (1000, 1_000_000));
    assert_eq!(Nanos(1_999_999).as_millis(), 1);
    assert_eq!(Nanos::NEVER + second, Nanos::NEVER);
    assert_eq!(Nanos::ZERO - second, Nanos::ZERO);
    assert_eq!(Nanos::ZERO.since(second), Nanos::ZERO);
    assert_eq!((second + second).since(second), second);
    assert_eq!(Nanos::from_secs(u64::MAX), Nanos::NEVER);
    assert_eq!(Nanos::from_millis(u64::MAX), Nanos::NEVER);
    assert_eq!(Nanos::from_micros(u64::MAX), Nanos::NEVER);
    assert_eq!(second.earlier(Nanos::NEVER), second);
    assert_eq!(Nanos::NEVER.earlier(second), second);
    assert_eq!(second.as_duration(), std::time::Duration::from_secs(1));
}

#[test]
fn meanings_are_listed_as_they_are_defined() {
    let listed: Vec<_> = meanings().collect();
    let types: std::collections::BTreeSet<_> = listed.iter().map(|m| m.ty).collect();
    assert_eq!(types.len(), 10);
    let used: std::collections::BTreeSet<_> =
        tables().flat_map(|t| t.rows).map(|row| row.ty).filter(|ty| types.contains(ty)).collect();
    assert_eq!(used, types, "every meaning is the type of some field");
    for meaning in listed {
        assert!(!meaning.doc.trim().is_empty());
        for (_, label, doc) in meaning.values {
            assert!(!doc.trim().is_empty(), "{label}");
        }
    }
    let rejects: Vec<_> = RejectReason::MEANING.values.iter().map(|v| (v.0, v.1)).collect();
    let all: Vec<_> = RejectReason::ALL.iter().map(|v| (v.1, v.2)).collect();
    assert_eq!(rejects, all);
}
