//! Interrupt messages: what APICs and devices send.

/// How an interrupt is delivered (SDM 3A 11.6.1, bits 10:8; 11.11.2 for devices).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Delivery {
    /// To every processor of the destination.
    Fixed,
    /// To the one with the lowest priority.
    LowestPriority,
    /// System management interrupt.
    Smi,
    /// Non-maskable interrupt.
    Nmi,
    /// INIT.
    Init,
    /// Start-up IPI: the vector is the page where the processor starts.
    StartUp,
    /// The vector comes from an 8259.
    External,
}

impl Delivery {
    /// From the three bits of an interrupt command.
    pub(super) const fn of_command(command: u32) -> Option<Self> {
        match command >> 8 & 7 {
            0 => Some(Self::Fixed),
            1 => Some(Self::LowestPriority),
            2 => Some(Self::Smi),
            4 => Some(Self::Nmi),
            5 => Some(Self::Init),
            6 => Some(Self::StartUp),
            _ => None,
        }
    }

    /// From the three bits of an LVT entry or of a device's data: 7 is ExtINT there, 6 nothing.
    pub(super) const fn of_lvt(entry: u32) -> Option<Self> {
        match entry >> 8 & 7 {
            6 => None,
            7 => Some(Self::External),
            _ => Self::of_command(entry),
        }
    }
}

/// Who gets a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Destination {
    /// By id; [`Self::BROADCAST`] is everyone.
    Physical(u32),
    /// By logical id; [`Self::BROADCAST`] is everyone.
    Logical(u32),
    /// The sender.
    Itself,
    /// Everyone.
    All,
    /// Everyone but the sender.
    AllButItself,
}

impl Destination {
    /// The id that means everyone (SDM 3A 11.12.9).
    pub const BROADCAST: u32 = u32::MAX;

    /// From an id of eight bits, of which 255 means everyone (SDM 3A 11.6.2).
    const fn of_byte(id: u32, logical: bool) -> Self {
        let id = if id == 0xff { Self::BROADCAST } else { id };
        Self::of_id(id, logical)
    }

    const fn of_id(id: u32, logical: bool) -> Self {
        if logical { Self::Logical(id) } else { Self::Physical(id) }
    }
}

/// An interrupt on its way: an inter-processor interrupt, or a device's message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Message {
    /// Who gets it.
    pub destination: Destination,
    /// As what.
    pub delivery: Delivery,
    /// Its vector; the start page for [`Delivery::StartUp`].
    pub vector: u8,
    /// Level-triggered: its end is reported.
    pub level: bool,
}

/// Bits of the interrupt command register (SDM 3A 11.6.1, figure 11-12).
const LOGICAL: u32 = 1 << 11;
const SHORTHAND_SHIFT: u32 = 18;
/// In an interrupt command and in a device's data (SDM 3A 11.11.2).
const ASSERT: u32 = 1 << 14;
const LEVEL: u32 = 1 << 15;
/// Bits 31 to 20 of the address of a message-signalled interrupt (SDM 3A 11.11.1).
const WINDOW: u64 = 0xfee;
const ADDRESS_LOGICAL: u64 = 1 << 2;

impl Message {
    /// What a write of the interrupt command register sends; `destination` is an id of eight bits, or
    /// of 32 with `x2apic`. `None` for commands that send nothing: reserved kinds, an INIT's
    /// de-assertion, and the shorthand to itself with anything but a vector (SDM 3A 11.6.1).
    pub(super) fn of_command(low: u32, destination: u32, x2apic: bool) -> Option<Self> {
        let delivery = Delivery::of_command(low)?;
        if delivery == Delivery::Init && low & ASSERT == 0 {
            return None;
        }
        let logical = low & LOGICAL != 0;
        let destination = match low >> SHORTHAND_SHIFT & 3 {
            0 if x2apic => Destination::of_id(destination, logical),
            0 => Destination::of_byte(destination, logical),
            1 if delivery != Delivery::Fixed => return None,
            1 => Destination::Itself,
            2 => Destination::All,
            _ => Destination::AllButItself,
        };
        Some(Self { destination, delivery, vector: low as u8, level: false })
    }

    /// The message a device sends by writing `data` to `address`; `None` when that is no interrupt.
    /// Address bits 11:5 extend the id to 15 bits where the guest's platform says so; they are zero
    /// otherwise.
    pub fn signalled(address: u64, data: u32) -> Option<Self> {
        let level = data & LEVEL != 0;
        if address >> 20 != WINDOW || level && data & ASSERT == 0 {
            return None;
        }
        let id = (address >> 12 & 0xff) as u32 | ((address >> 5 & 0x7f) as u32) << 8;
        Some(Self {
            destination: Destination::of_byte(id, address & ADDRESS_LOGICAL != 0),
            delivery: Delivery::of_lvt(data)?,
            vector: data as u8,
            level,
        })
    }
}
