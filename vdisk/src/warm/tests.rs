use super::*;
use proptest::prelude::*;

const ID: ContentId = ContentId([7; 32]);
const BLOCK: u32 = 64 << 10;

fn list(read: &[u32]) -> WarmList {
    let mut list = WarmList::default();
    list.learn(read);
    list
}

#[test]
fn the_bytes_are_laid_out_as_the_picture_says() {
    let encoded = list(&[5, 0x0102_0304]).encode(ID, BLOCK);
    assert_eq!(encoded.len(), 84 + 2 * 8);
    assert_eq!(&encoded[..8], b"DSKWARM\n");
    assert_eq!(encoded[8..12], [1, 0, 0, 0]); // version
    assert_eq!(encoded[12..16], [0, 0, 1, 0]); // block_bytes
    assert_eq!(encoded[16..48], [7; 32]); // content_id
    assert_eq!(encoded[48..52], [2, 0, 0, 0]); // count
    assert_eq!(encoded[84..92], [5, 0, 0, 0, 1, 0, 0, 0]);
    assert_eq!(encoded[92..100], [4, 3, 2, 1, 1, 0, 0, 0]);
}

#[test]
fn comes_back_from_the_disk_and_replaces_the_one_before() {
    let folder = tempfile::tempdir().expect("a folder");
    let image = folder.path().join("disk.img");
    assert!(WarmList::load(&image, ID, BLOCK).expect("none is no error").is_none());
    list(&[9]).save(&image, ID, BLOCK).expect("written");
    let second = list(&[3, 1, 2]);
    second.save(&image, ID, BLOCK).expect("written");
    assert_eq!(WarmList::load(&image, ID, BLOCK).expect("sound"), Some(second));
    assert_eq!(std::fs::read_dir(folder.path()).expect("a folder").count(), 1, "no leftovers");
}

#[test]
fn what_is_odd_is_named() {
    let folder = tempfile::tempdir().expect("a folder");
    let image = folder.path().join("disk.img");
    list(&[1, 2]).save(&image, ID, BLOCK).expect("written");
    let other = ContentId([8; 32]);
    assert!(matches!(WarmList::load(&image, other, BLOCK), Err(WarmError::Foreign)));
    assert!(matches!(WarmList::load(&image, ID, 1 << 20), Err(WarmError::BlockBytes(BLOCK))));
    let path = with_suffix(&image, SUFFIX);
    std::fs::remove_file(&path).expect("there");
    std::fs::create_dir(&path).expect("a folder in its place");
    assert!(matches!(WarmList::load(&image, ID, BLOCK), Err(WarmError::Unreadable(_))));
    let mut encoded = list(&[1]).encode(ID, BLOCK);
    encoded[8] = 2;
    assert!(matches!(WarmList::decode(&encoded, ID, BLOCK), Err(WarmError::Version(2))));
}

#[test]
fn every_cut_and_every_flipped_byte_is_noticed() {
    let encoded = list(&[1, 70_000, 3]).encode(ID, BLOCK);
    for length in 0..encoded.len() {
        assert!(WarmList::decode(&encoded[..length], ID, BLOCK).is_err(), "cut at {length}");
    }
    for at in 0..encoded.len() {
        let mut damaged = encoded.clone();
        damaged[at] ^= 0x10;
        assert!(WarmList::decode(&damaged, ID, BLOCK).is_err(), "flipped at {at}");
    }
    let mut longer = encoded;
    longer.push(0);
    assert!(WarmList::decode(&longer, ID, BLOCK).is_err());
}

#[test]
fn what_boots_use_stays_and_what_they_stop_to_use_goes() {
    let mut list = list(&[1, 2, 3]);
    list.learn(&[2, 3, 4]);
    assert_eq!(list.blocks().collect::<Vec<_>>(), [2, 3, 4], "once and not again is forgotten");
    list.learn(&[4, 2, 4]);
    assert_eq!(list.blocks().collect::<Vec<_>>(), [4, 2, 3], "the newest order, then the rest");
    (0..20).for_each(|_| list.learn(&[2]));
    assert_eq!(list.blocks().collect::<Vec<_>>(), [2]);
    (0..8).for_each(|_| list.learn(&[6]));
    assert_eq!(list.blocks().collect::<Vec<_>>(), [6], "weights are bounded");
}

#[test]
fn a_part_of_a_boot_adds_and_lets_nothing_go() {
    let mut list = list(&[1, 2, 3]);
    (0..20).for_each(|_| list.learn_part(&[3, 9, 3]));
    assert_eq!(
        list.blocks().collect::<Vec<_>>(),
        [1, 2, 3, 9],
        "in the order that whole boots had"
    );
    list.learn(&[1, 2]);
    assert_eq!(list.blocks().collect::<Vec<_>>(), [1, 2, 3, 9], "what parts read has weight");
    let many: Vec<u32> = (1_000..1_000 + u32::try_from(WARM_BLOCKS_MAX).expect("fits")).collect();
    list.learn_part(&many);
    assert_eq!(list.blocks().len(), WARM_BLOCKS_MAX);
    assert_eq!(list.blocks().take(4).collect::<Vec<_>>(), [1, 2, 3, 9], "the lightest go");
}

#[test]
fn of_too_many_the_lightest_are_forgotten() {
    let most = u32::try_from(WARM_BLOCKS_MAX).expect("fits");
    let mut list = list(&(0..100).collect::<Vec<_>>());
    let second: Vec<u32> = (1_000..1_000 + most).chain(0..100).collect();
    list.learn(&second);
    assert_eq!(list.blocks().len(), WARM_BLOCKS_MAX);
    let kept: HashSet<u32> = list.blocks().collect();
    assert!((0..100).all(|block| kept.contains(&block)), "two boots outweigh one");
    assert_eq!(list.blocks().next(), Some(1_000), "the order stays");
}

proptest! {
    #[test]
    fn any_bytes_are_a_list_or_a_reason(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        let _ = WarmList::decode(&bytes, ID, BLOCK);
    }

    #[test]
    fn learning_keeps_each_block_once(reads in proptest::collection::vec(proptest::collection::vec(0u32..50, 0..60), 1..6)) {
        let mut list = WarmList::default();
        for (n, read) in reads.iter().enumerate() {
            if n % 2 == 0 { list.learn(read) } else { list.learn_part(read) }
            let blocks: Vec<u32> = list.blocks().collect();
            let once: HashSet<u32> = blocks.iter().copied().collect();
            prop_assert_eq!(once.len(), blocks.len());
            prop_assert!(read.iter().all(|block| once.contains(block)));
        }
        let encoded = list.encode(ID, BLOCK);
        prop_assert_eq!(WarmList::decode(&encoded, ID, BLOCK).expect("ours"), list);
    }
}
