use super::*;

#[test]
fn full_hands_the_item_back() {
    let (sender, mut inbox) = inbox(2, Waker::new().unwrap());
    sender.push(1).unwrap();
    sender.push(2).unwrap();
    assert_eq!(sender.push(3), Err(3));
    assert_eq!((inbox.len(), inbox.capacity()), (2, 2));
    assert_eq!(inbox.pop(), Some(1));
    sender.push(3).unwrap();
    assert_eq!((inbox.pop(), inbox.pop(), inbox.pop()), (Some(2), Some(3), None));
    assert!(inbox.is_empty());
}

#[test]
fn work_forbids_sleep() {
    let (sender, mut inbox) = inbox(2, Waker::new().unwrap());
    assert!(inbox.may_sleep());
    inbox.awake();
    sender.push(()).unwrap();
    assert!(!inbox.may_sleep());
    // The refusal left the owner awake: nobody needs to ring.
    assert!(!inbox.shared.doorbell.must_wake());
}

#[test]
fn only_a_sleeper_is_woken() {
    let doorbell = Doorbell::new();
    assert!(!doorbell.must_wake());
    assert!(doorbell.lie_down(|| true));
    assert!(doorbell.must_wake());
    doorbell.get_up();
    assert!(!doorbell.must_wake());
    assert!(!doorbell.lie_down(|| false));
    assert!(!doorbell.must_wake());
}
