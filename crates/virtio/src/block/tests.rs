//! The disk as a driver sees it.

use super::*;
use crate::test_support::{Buffer, Random, TestDriver, Used, attack};
use disk::{CreateOptions, Format, OpenOptions, create};
use std::path::PathBuf;
use tempfile::TempDir;
use virtio_bindings::bindings::virtio_blk::{
    VIRTIO_BLK_T_DISCARD, VIRTIO_BLK_T_FLUSH, VIRTIO_BLK_T_GET_ID, VIRTIO_BLK_T_IN,
    VIRTIO_BLK_T_OUT, VIRTIO_BLK_T_WRITE_ZEROES,
};

const SIZE: u64 = 8 << 20;
const OK: u8 = 0;
const IOERR: u8 = 1;
const UNSUPP: u8 = 2;

struct Fixture {
    _folder: TempDir,
    path: PathBuf,
    format: Format,
}

impl Fixture {
    fn new(format: Format) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("disk");
        create(&path, &CreateOptions { format, size: SIZE, backing: None }).unwrap();
        Self { _folder: folder, path, format }
    }

    fn options(&self, read_only: bool) -> BlockOptions {
        let options = OpenOptions { read_only, ..OpenOptions::new(self.format) };
        BlockOptions {
            name: "block0".to_owned(),
            image: Arc::new(options.open(&self.path).unwrap()),
            serial: "serial-0123456789-too-long".to_owned(),
            queues: 1,
            limit: RateLimit::default(),
        }
    }

    fn driver(&self) -> TestDriver {
        TestDriver::start(Box::new(Block::new(self.options(false))))
    }
}

fn header(kind: u32, sector: u64) -> Vec<u8> {
    let mut bytes = kind.to_le_bytes().to_vec();
    bytes.extend([0; 4]);
    bytes.extend(sector.to_le_bytes());
    bytes
}

fn segment(sector: u64, sectors: u32, flags: u32) -> Vec<u8> {
    let mut bytes = sector.to_le_bytes().to_vec();
    bytes.extend(sectors.to_le_bytes());
    bytes.extend(flags.to_le_bytes());
    bytes
}

fn status(used: &Used) -> u8 {
    *used.data.last().unwrap()
}

fn write(driver: &mut TestDriver, sector: u64, data: &[u8]) -> u8 {
    let header = header(VIRTIO_BLK_T_OUT, sector);
    let used = driver.request(0, &[Buffer::Out(&header), Buffer::Out(data), Buffer::In(1)]);
    assert_eq!(used.length, 1);
    status(&used)
}

fn read(driver: &mut TestDriver, sector: u64, length: usize) -> Used {
    let header = header(VIRTIO_BLK_T_IN, sector);
    driver.request(0, &[Buffer::Out(&header), Buffer::In(length), Buffer::In(1)])
}

fn with_data(driver: &mut TestDriver, kind: u32, data: &[u8]) -> u8 {
    let header = header(kind, 0);
    status(&driver.request(0, &[Buffer::Out(&header), Buffer::Out(data), Buffer::In(1)]))
}

#[test]
fn what_is_written_is_read_again_however_it_is_cut_up() {
    for format in [Format::Raw, Format::Qcow2] {
        let fixture = Fixture::new(format);
        let mut driver = fixture.driver();
        let data: Vec<u8> = (0..200_704).map(|n| (n % 241) as u8).collect();
        assert_eq!(write(&mut driver, 100, &data), OK);
        let used = read(&mut driver, 100, data.len());
        assert_eq!((used.length as usize, status(&used)), (data.len() + 1, OK));
        assert!(used.data[..data.len()] == data);

        // Buffers of odd lengths, the status in the same buffer as data.
        let header = header(VIRTIO_BLK_T_IN, 101);
        let pieces = [
            Buffer::Out(&header[..7]),
            Buffer::Out(&header[7..]),
            Buffer::In(100),
            Buffer::In(925),
        ];
        let used = driver.request(0, &pieces);
        assert_eq!(used.data[..1024], data[512..1536]);
        assert_eq!(status(&used), OK);
        assert_eq!(driver.device().counters()[2], ("bytes-written", 200_704));
    }
}

#[test]
fn a_request_past_the_end_answers_ioerr_and_changes_nothing() {
    let fixture = Fixture::new(Format::Raw);
    let mut driver = fixture.driver();
    let last = SIZE / 512 - 1;
    for (sector, sectors) in [(last, 2), (last + 1, 1), (u64::MAX, 1), (u64::MAX / 512, 2)] {
        let data = vec![1; 512 * sectors];
        assert_eq!(write(&mut driver, sector, &data), IOERR);
        let used = read(&mut driver, sector, 512 * sectors);
        assert_eq!((status(&used), used.length), (IOERR, 1));
        assert!(used.data[..512].iter().all(|byte| *byte == 0));
        let range = segment(sector, sectors as u32, 0);
        assert_eq!(with_data(&mut driver, VIRTIO_BLK_T_DISCARD, &range), IOERR);
        assert_eq!(with_data(&mut driver, VIRTIO_BLK_T_WRITE_ZEROES, &range), IOERR);
    }
    assert_eq!(write(&mut driver, last, &[7; 512]), OK);
    assert_eq!(write(&mut driver, 0, &[7; 100]), IOERR, "not a whole sector");
    assert_eq!(std::fs::metadata(&fixture.path).unwrap().len(), SIZE);
    assert_eq!(driver.device().counters()[5], ("refused", 17));
}

#[test]
fn a_read_only_disk_offers_no_writing_and_refuses_it() {
    let fixture = Fixture::new(Format::Raw);
    let before = std::fs::read(&fixture.path).unwrap();
    let mut driver = TestDriver::start(Box::new(Block::new(fixture.options(true))));
    let features = driver.device().features();
    assert_ne!(features & 1 << VIRTIO_BLK_F_RO, 0);
    assert_eq!(features & 1 << VIRTIO_BLK_F_DISCARD, 0);
    assert_eq!(write(&mut driver, 0, &[1; 512]), IOERR);
    assert_eq!(with_data(&mut driver, VIRTIO_BLK_T_DISCARD, &segment(0, 1, 0)), UNSUPP);
    assert_eq!(status(&read(&mut driver, 0, 512)), OK);
    drop(driver);
    assert_eq!(std::fs::read(&fixture.path).unwrap(), before);
}

#[test]
fn discard_and_zeroes_check_every_range_first() {
    for format in [Format::Raw, Format::Qcow2] {
        let fixture = Fixture::new(format);
        let mut driver = fixture.driver();
        let data = vec![9; 1 << 20];
        assert_eq!(write(&mut driver, 0, &data), OK);
        let unmap = VIRTIO_BLK_T_WRITE_ZEROES;

        let two = [segment(8, 8, 1), segment(u64::MAX, 8, 0)].concat();
        assert_eq!(with_data(&mut driver, unmap, &two), IOERR);
        let two = [segment(8, 8, 0), segment(8, 8, 2)].concat();
        assert_eq!(with_data(&mut driver, unmap, &two), UNSUPP, "unknown flag");
        assert_eq!(with_data(&mut driver, VIRTIO_BLK_T_DISCARD, &segment(8, 8, 1)), UNSUPP);
        assert_eq!(with_data(&mut driver, unmap, &[0; 15]), IOERR);
        assert_eq!(with_data(&mut driver, unmap, &[0; 16 * 33]), IOERR);
        let huge = segment(0, MOST_ZEROES_SECTORS + 1, 0);
        assert_eq!(with_data(&mut driver, unmap, &huge), IOERR);
        assert!(read(&mut driver, 0, 1 << 20).data[..1 << 20] == data, "nothing changed");

        let two = [segment(8, 8, 1), segment(1000, 3, 0)].concat();
        assert_eq!(with_data(&mut driver, unmap, &two), OK);
        assert_eq!(with_data(&mut driver, VIRTIO_BLK_T_DISCARD, &segment(1024, 512, 0)), OK);
        let used = read(&mut driver, 0, 1 << 20);
        assert!(used.data[8 * 512..16 * 512].iter().all(|byte| *byte == 0));
        assert!(used.data[1000 * 512..1003 * 512].iter().all(|byte| *byte == 0));
        assert_eq!((used.data[7 * 512], used.data[16 * 512], used.data[1003 * 512]), (9, 9, 9));
    }
}

#[test]
fn identity_flush_and_unknown_requests() {
    let fixture = Fixture::new(Format::Qcow2);
    let mut driver = fixture.driver();
    let id = header(VIRTIO_BLK_T_GET_ID, 0);
    let used = driver.request(0, &[Buffer::Out(&id), Buffer::In(20), Buffer::In(1)]);
    assert_eq!((&used.data[..20], used.length), (&b"serial-0123456789-to"[..], 21));
    let used = driver.request(0, &[Buffer::Out(&id), Buffer::In(3), Buffer::In(1)]);
    assert_eq!((&used.data[..3], used.length), (&b"ser"[..], 4));
    let flush = header(VIRTIO_BLK_T_FLUSH, 0);
    assert_eq!(status(&driver.request(0, &[Buffer::Out(&flush), Buffer::In(1)])), OK);
    let unknown = header(77, 0);
    assert_eq!(status(&driver.request(0, &[Buffer::Out(&unknown), Buffer::In(1)])), UNSUPP);
}

#[test]
fn requests_without_header_or_status_are_given_back_empty() {
    let fixture = Fixture::new(Format::Raw);
    let mut driver = fixture.driver();
    let whole = header(VIRTIO_BLK_T_FLUSH, 0);
    assert_eq!(driver.request(0, &[Buffer::Out(&whole[..15]), Buffer::In(1)]).length, 0);
    assert_eq!(driver.request(0, &[Buffer::Out(&whole)]).length, 0);
    assert_eq!(driver.request(0, &[Buffer::In(100)]).length, 0);
    let used = driver.request(0, &[Buffer::Out(&whole), Buffer::In(1)]);
    assert_eq!(status(&used), OK, "and the next one is answered");
    assert_eq!(driver.device().counters()[5], ("refused", 3));
}

#[test]
fn the_configuration_says_what_the_disk_is() {
    let fixture = Fixture::new(Format::Qcow2);
    let mut block = Block::new(BlockOptions { queues: 99, ..fixture.options(false) });
    let mut config = [0xff; 70];
    block.read_config(0, &mut config);
    assert_eq!(config[..8], (SIZE / 512).to_le_bytes());
    assert_eq!(config[12..16], 510_u32.to_le_bytes());
    assert_eq!(config[34..36], 16_u16.to_le_bytes());
    assert_eq!(config[44..48], 128_u32.to_le_bytes(), "discards in clusters");
    assert_eq!(config[60..], [0; 10]);
    assert_eq!(block.queue_sizes().len(), 16);
    for value in [2, 0xff] {
        block.write_config(32, &[value]);
        block.read_config(32, &mut config[..1]);
        assert_eq!(config[0], 1);
    }
    block.write_config(32, &[0]);
    block.read_config(32, &mut config[..1]);
    assert_eq!(config[0], 0);
    block.read_config(u64::MAX, &mut config[..4]);
    assert_eq!(config[..4], [0; 4]);
    let saved = block.save();
    block.reset();
    block.read_config(32, &mut config[..1]);
    assert_eq!(config[0], 1);
    block.restore(&saved).unwrap();
    block.read_config(32, &mut config[..1]);
    assert_eq!(config[0], 0);
    assert!(block.restore(&serde_json::json!({ "version": 9 })).is_err());
}

#[test]
fn many_requests_at_once_on_many_queues_are_all_answered() {
    for format in [Format::Raw, Format::Qcow2] {
        let fixture = Fixture::new(format);
        let options = BlockOptions { queues: 4, ..fixture.options(false) };
        let mut driver = TestDriver::start(Box::new(Block::new(options)));
        for round in 0..4_u8 {
            let mut heads = Vec::new();
            for n in 0..60_u64 {
                let queue = (n % 4) as u16;
                let sector = n * 200;
                let write = header(VIRTIO_BLK_T_OUT, sector);
                let data = vec![round ^ n as u8; 4096];
                heads.push((
                    queue,
                    driver.add(queue, &[Buffer::Out(&write), Buffer::Out(&data), Buffer::In(1)]),
                ));
                // Flushes go to the pool when others wait.
                let flush = header(VIRTIO_BLK_T_FLUSH, 0);
                heads.push((queue, driver.add(queue, &[Buffer::Out(&flush), Buffer::In(1)])));
            }
            for queue in 0..4 {
                driver.kick(queue);
            }
            for queue in 0..4 {
                let count = heads.iter().filter(|(on, _)| *on == queue).count();
                for _ in 0..count {
                    assert_eq!(driver.wait_used(queue).data, [OK]);
                }
            }
            for n in 0..60_u64 {
                let used = read(&mut driver, n * 200, 4096);
                assert!(used.data[..4096].iter().all(|byte| *byte == round ^ n as u8));
            }
        }
    }
}

#[test]
fn stopping_finishes_what_is_in_flight_and_starting_goes_on() {
    let fixture = Fixture::new(Format::Raw);
    let mut driver = fixture.driver();
    let flush = header(VIRTIO_BLK_T_FLUSH, 0);
    let mut answered = 0;
    for round in 0..6_u16 {
        for _ in 0..10 {
            driver.add(0, &[Buffer::Out(&flush), Buffer::In(1)]);
        }
        driver.kick(0);
        let state = driver.stop()[0];
        assert_eq!(state.next_avail, state.next_used, "nothing is left in flight");
        assert!(state.next_avail <= (round + 1) * 10);
        while let Some(used) = driver.ring(0).take_used() {
            assert_eq!(used.data, [OK]);
            answered += 1;
        }
        assert_eq!(answered, state.next_used);
        driver.resume();
    }
    while answered < 60 {
        assert_eq!(driver.wait_used(0).data, [OK]);
        answered += 1;
    }
}

#[test]
fn a_reset_pays_no_debt() {
    let fixture = Fixture::new(Format::Raw);
    let block = Block::new(BlockOptions {
        limit: RateLimit { bytes_per_second: 1, ..RateLimit::default() },
        ..fixture.options(false)
    });
    let limiter = block.limiter.clone();
    let mut driver = TestDriver::start(Box::new(block));
    let header = [0; 16];
    driver.request(0, &[Buffer::Out(&header), Buffer::In(4096), Buffer::In(1)]);
    driver.reset();
    assert!(limiter.lock().unwrap().earliest(Instant::now()).is_some());
    // Held by the test, the device and its new worker.
    assert_eq!(Arc::strong_count(&limiter), 3);
}

#[test]
fn a_limited_disk_holds_requests_back_and_answers_them_all() {
    let fixture = Fixture::new(Format::Raw);
    let limit = RateLimit { bytes_per_second: 0, operations_per_second: 200 };
    let mut driver =
        TestDriver::start(Box::new(Block::new(BlockOptions { limit, ..fixture.options(false) })));
    let begin = Instant::now();
    let one = header(VIRTIO_BLK_T_IN, 0);
    for _ in 0..80 {
        driver.add(0, &[Buffer::Out(&one), Buffer::In(512), Buffer::In(1)]);
    }
    driver.kick(0);
    for _ in 0..80 {
        assert_eq!(status(&driver.wait_used(0)), OK);
    }
    // 20 of them were saved up, the last one begins when the debt of the others is paid.
    assert!(begin.elapsed().as_millis() >= 290, "{:?}", begin.elapsed());
    driver.add(0, &[Buffer::Out(&one), Buffer::In(512), Buffer::In(1)]);
    driver.kick(0);
    driver.stop();
}

#[test]
fn a_failing_image_answers_ioerr() {
    let fixture = Fixture::new(Format::Qcow2);
    drop(fixture.driver());
    {
        let mut driver = fixture.driver();
        assert_eq!(write(&mut driver, 0, &[5; 65_536]), OK);
    }
    let mut driver = fixture.driver();
    // An entry of the second-level table that is not on a cluster.
    let mut bytes = std::fs::read(&fixture.path).unwrap();
    let l1 = u64::from_be_bytes(bytes[40..48].try_into().unwrap()) as usize;
    let l2 = u64::from_be_bytes(bytes[l1..l1 + 8].try_into().unwrap()) as usize & 0xff_ffff_ffff;
    bytes[l2 + 6] |= 0x0f;
    std::fs::write(&fixture.path, &bytes).unwrap();
    assert_eq!(status(&read(&mut driver, 0, 512)), IOERR);
    assert_eq!(driver.device().counters()[4], ("errors", 1));
    let id = header(VIRTIO_BLK_T_GET_ID, 0);
    assert_eq!(status(&driver.request(0, &[Buffer::Out(&id), Buffer::In(20), Buffer::In(1)])), OK);
}

#[test]
fn a_hostile_driver_harms_only_itself() {
    for (seed, format) in [(1, Format::Raw), (2, Format::Qcow2), (3, Format::Raw)] {
        let fixture = Fixture::new(format);
        let options = BlockOptions { queues: 2, ..fixture.options(false) };
        attack(Box::new(Block::new(options)), seed, |_, random: &mut Random| {
            let kind = random.pick(&[0, 1, 4, 8, 11, 13, 13, 99]);
            let sector = random.pick(&[0, 1, 100, SIZE / 512 - 1, SIZE / 512, u64::MAX]);
            let mut bytes = header(kind, sector);
            if kind >= 11 {
                bytes.extend(segment(
                    sector,
                    random.pick(&[0, 1, 8, 1 << 20]),
                    random.below(4) as u32,
                ));
            } else {
                bytes.resize(16 + 512 * random.below(4) as usize, 0xaa);
            }
            bytes
        });
        if format == Format::Raw {
            assert_eq!(std::fs::metadata(&fixture.path).unwrap().len(), SIZE);
        }
    }
}
