//! Image formats. The format of an image is configured, never guessed: a guest that writes a qcow2
//! header into its own raw disk must not be able to make the node follow that header. What is
//! recognised here is only ever used to *refuse*: a raw image that starts like another format is
//! nearly always a mistake, and served as raw it would give devices a disk that cannot boot.
pub(crate) mod raw;

use crate::geometry::{SECTOR_BYTES, index};
use std::fmt;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

/// How an image's bytes are laid out in its file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Format {
    /// The file's bytes are the disk's bytes.
    #[default]
    Raw,
}

/// What a file that is configured as raw was recognised as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ForeignFormat {
    /// QEMU copy on write, version 2 or 3.
    Qcow2,
    /// VHD: fixed (a footer behind the raw bytes), dynamic or differencing.
    Vhd,
    /// VHDX.
    Vhdx,
    /// A sparse VMDK.
    Vmdk,
    /// VirtualBox.
    Vdi,
    /// Compressed with gzip.
    Gzip,
    /// Compressed with xz.
    Xz,
    /// Compressed with zstd.
    Zstd,
}

impl ForeignFormat {
    /// What to do about it.
    #[must_use]
    pub fn remedy(self) -> &'static str {
        match self {
            Self::Qcow2 => "convert it: qemu-img convert -f qcow2 -O raw IMAGE IMAGE.raw",
            Self::Vhd => "convert it: qemu-img convert -f vpc -O raw IMAGE IMAGE.raw",
            Self::Vhdx => "convert it: qemu-img convert -f vhdx -O raw IMAGE IMAGE.raw",
            Self::Vmdk => "convert it: qemu-img convert -f vmdk -O raw IMAGE IMAGE.raw",
            Self::Vdi => "convert it: qemu-img convert -f vdi -O raw IMAGE IMAGE.raw",
            Self::Gzip => "unpack it: gzip -dc IMAGE | dd of=IMAGE.raw bs=4M conv=sparse",
            Self::Xz => "unpack it: xz -dc IMAGE | dd of=IMAGE.raw bs=4M conv=sparse",
            Self::Zstd => "unpack it: zstd -dc IMAGE | dd of=IMAGE.raw bs=4M conv=sparse",
        }
    }

    /// Recognises a format by the first and the last sector of a file. Pure.
    ///
    /// Magic numbers from: QEMU `docs/interop/qcow2.rst`; Microsoft's VHD specification 1.0
    /// ("cookie", at the start of a dynamic disk and in the last sector of every disk) and
    /// [MS-VHDX] 2.2.1; VMware Virtual Disk Format 5.0; VirtualBox `VDICore.h`; RFC 1952 with
    /// method 8; the xz file format 1.2; RFC 8878.
    #[must_use]
    pub fn recognise(first: &[u8], last: &[u8]) -> Option<Self> {
        let starts = |magic: &[u8]| first.starts_with(magic);
        let vdi = first.get(64..68) == Some(&0xbeda_107f_u32.to_le_bytes());
        if starts(b"QFI\xfb") {
            Some(Self::Qcow2)
        } else if starts(b"vhdxfile") {
            Some(Self::Vhdx)
        } else if starts(b"conectix") || last.starts_with(b"conectix") {
            Some(Self::Vhd)
        } else if starts(b"KDMV") {
            Some(Self::Vmdk)
        } else if vdi {
            Some(Self::Vdi)
        } else if starts(&[0x1f, 0x8b, 8]) {
            Some(Self::Gzip)
        } else if starts(b"\xfd7zXZ\0") {
            Some(Self::Xz)
        } else if starts(&[0x28, 0xb5, 0x2f, 0xfd]) {
            Some(Self::Zstd)
        } else {
            None
        }
    }

    /// Reads the two sectors and recognises. A file shorter than a sector has only a beginning.
    pub(crate) fn recognise_file(file: &File, size_bytes: u64) -> io::Result<Option<Self>> {
        const SECTOR: usize = 512;
        const { assert!(SECTOR as u64 == SECTOR_BYTES) };
        let mut first = [0; SECTOR];
        let mut last = [0; SECTOR];
        let len = SECTOR.min(index(size_bytes));
        file.read_exact_at(&mut first[..len], 0)?;
        if size_bytes >= SECTOR_BYTES {
            file.read_exact_at(&mut last, size_bytes - SECTOR_BYTES)?;
        }
        Ok(Self::recognise(&first[..len], &last))
    }
}

impl fmt::Display for ForeignFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Qcow2 => "a qcow2 image",
            Self::Vhd => "a VHD image",
            Self::Vhdx => "a VHDX image",
            Self::Vmdk => "a VMDK image",
            Self::Vdi => "a VirtualBox VDI image",
            Self::Gzip => "gzip-compressed data",
            Self::Xz => "xz-compressed data",
            Self::Zstd => "zstd-compressed data",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn formats_are_recognised_by_their_magic_and_raw_ones_are_not() {
        let mut mbr = [0_u8; 512];
        mbr[..3].copy_from_slice(&[0xeb, 0x63, 0x90]);
        mbr[510..].copy_from_slice(&[0x55, 0xaa]);
        let plain = [0_u8; 512];
        assert_eq!(ForeignFormat::recognise(&mbr, &plain), None);
        assert_eq!(ForeignFormat::recognise(&[], &[]), None);

        let with = |at: usize, magic: &[u8]| {
            let mut sector = mbr;
            sector[at..at + magic.len()].copy_from_slice(magic);
            sector
        };
        let cases = [
            (0, &b"QFI\xfb"[..], ForeignFormat::Qcow2),
            (0, b"vhdxfile", ForeignFormat::Vhdx),
            (0, b"conectix", ForeignFormat::Vhd),
            (0, b"KDMV", ForeignFormat::Vmdk),
            (64, &[0x7f, 0x10, 0xda, 0xbe], ForeignFormat::Vdi),
            (0, &[0x1f, 0x8b, 8, 0], ForeignFormat::Gzip),
            (0, b"\xfd7zXZ\0", ForeignFormat::Xz),
            (0, &[0x28, 0xb5, 0x2f, 0xfd], ForeignFormat::Zstd),
        ];
        for (at, magic, format) in cases {
            assert_eq!(ForeignFormat::recognise(&with(at, magic), &plain), Some(format));
            assert_eq!(ForeignFormat::recognise(&with(at + 1, magic), &plain), None);
            assert!(format.remedy().contains("IMAGE.raw"));
        }
        assert_eq!(
            ForeignFormat::recognise(&mbr, &with(0, b"conectix")),
            Some(ForeignFormat::Vhd),
            "a fixed VHD has only the footer"
        );
    }
}
