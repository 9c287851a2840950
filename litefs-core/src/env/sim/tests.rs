use std::path::Path;

use super::*;

const DIR: &str = "/d";
const FILE: &str = "/d/f";

fn disk() -> SimDisk {
    let disk = SimDisk::new(1);
    disk.create_dir_all(Path::new(DIR)).unwrap();
    disk.sync_dir(Path::new(DIR)).unwrap();
    disk
}

fn create(disk: &SimDisk, path: &str) -> Arc<dyn File> {
    disk.open(Path::new(path), OpenMode::CreateNew).unwrap()
}

fn found(disk: &SimDisk, landed: Landed) -> Option<Vec<u8>> {
    disk.crash_image(disk.ops(), landed).content(Path::new(FILE))
}

#[test]
fn what_was_synced_survives_and_the_rest_may_not() {
    let disk = disk();
    let file = create(&disk, FILE);
    file.write_at(b"aaaa", 0).unwrap();
    assert_eq!(found(&disk, Landed::Nothing), None);
    assert_eq!(found(&disk, Landed::Everything).unwrap(), b"aaaa");
    file.sync().unwrap();
    file.write_at(b"bb", 2).unwrap();
    assert_eq!(
        found(&disk, Landed::Nothing).unwrap(),
        b"aaaa",
        "a file's fsync keeps its new name"
    );
    assert_eq!(found(&disk, Landed::Everything).unwrap(), b"aabb");
}

#[test]
fn an_unsynced_write_is_torn_at_sectors() {
    let disk = disk();
    let file = create(&disk, FILE);
    file.write_at(&[1; 2048], 0).unwrap();
    file.sync().unwrap();
    file.write_at(&[2; 2048], 0).unwrap();
    let mut torn = 0;
    for seed in 0..32 {
        let content = found(&disk, Landed::Some(seed)).unwrap();
        for sector in content.chunks(512) {
            assert!(sector.iter().all(|b| *b == sector[0]), "a sector is never torn");
        }
        torn += u32::from(content.contains(&1) && content.contains(&2));
    }
    assert!(torn > 16, "{torn}");
}

#[test]
fn a_removed_file_comes_back_until_its_directory_is_synced() {
    let disk = disk();
    create(&disk, FILE).sync().unwrap();
    disk.remove_file(Path::new(FILE)).unwrap();
    assert!(found(&disk, Landed::Nothing).is_some());
    assert!(found(&disk, Landed::Everything).is_none());
    disk.sync_dir(Path::new(DIR)).unwrap();
    assert!(found(&disk, Landed::Nothing).is_none());
}

#[test]
fn bytes_behind_a_lost_truncation_are_lost() {
    let disk = disk();
    let file = create(&disk, FILE);
    file.write_at(b"old", 0).unwrap();
    file.sync().unwrap();
    file.set_len(0).unwrap();
    file.write_at(b"new!", 0).unwrap();
    for seed in 0..32 {
        let content = found(&disk, Landed::Some(seed)).unwrap();
        assert!([&b"old"[..], b"", b"new!"].contains(&content.as_slice()), "{content:?}");
    }
}

#[test]
fn faults_hit_the_call_they_name() {
    let disk = disk();
    let file = create(&disk, FILE);
    disk.inject(Fault::new(EIO).calls(&[Call::Write]).nth(2).part_lands());
    file.write_at(b"1", 0).unwrap();
    file.sync().unwrap();
    assert_eq!(file.write_at(b"2345", 1).unwrap_err().raw_os_error(), Some(EIO));
    file.write_at(b"x", 3).unwrap();
    assert_eq!(disk.content(Path::new(FILE)).unwrap(), b"123x");
    assert_eq!(disk.clear_faults(), [(Call::Write, FILE.into())]);
}

#[test]
fn a_full_disk_takes_what_fits_and_space_can_be_freed() {
    let disk = disk();
    let file = create(&disk, FILE);
    disk.set_capacity(Some(6));
    let err = file.write_at(b"12345678", 0).unwrap_err();
    assert_eq!((err.raw_os_error(), disk.used()), (Some(ENOSPC), 6));
    file.write_at(b"87", 0).unwrap();
    file.set_len(2).unwrap();
    file.write_at(b"34", 2).unwrap();
}

#[test]
fn a_killed_disk_changes_no_more_and_its_survivor_works() {
    let disk = disk();
    let file = create(&disk, FILE);
    let guard = disk.lock(Path::new("/d/lock")).unwrap();
    assert!(disk.lock(Path::new("/d/lock")).is_err());
    disk.kill();
    assert!(file.write_at(b"x", 0).is_err());
    let next = disk.survivor();
    assert_eq!(next.content(Path::new(FILE)).unwrap(), b"");
    assert!(next.lock(Path::new("/d/lock")).is_ok());
    drop(guard);
}
