#!/bin/bash
# Builds the disk of the virtual machine that the end-to-end tests boot: plain Debian 12 on an MBR disk that starts by
# itself. Nothing is mounted, so it needs no loop device; it needs root only for the chroot that dpkg runs in.
#
#   mk-vm-image.sh OUT        OUT is written only when everything has worked; OUT.work is scratch and removed
#
# Layout: MBR boot code (syslinux) | partition 1: FAT, kernel, initrd, syslinux | partition 2: ext4 "dsroot"
set -euo pipefail
export LC_ALL=C.UTF-8 DEBIAN_FRONTEND=noninteractive
unset APT_CONFIG
out=${1:?usage: mk-vm-image.sh OUT}
work=$out.work
tree=$work/tree
img=$work/disk.img
trap 'rm -rf --one-file-system "$work"' EXIT
rm -rf --one-file-system "$work"
mkdir -p "$work"

# The machine's own mirrors, whatever form its sources are written in. Without its lists apt does not tell them.
[ -n "$(apt-get indextargets 'Created-By: Packages')" ] || apt-get update -qq
sources=$work/sources.list
apt-get indextargets --format '$(REPO_URI) $(RELEASE)' 'Created-By: Packages' \
  | awk '$2 ~ /^bookworm(-updates|-security)?$/ && $1 ~ /debian/ {
           print "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] " $1 " " $2 " main" }' | sort -u > "$sources"
grep -q ' bookworm main' "$sources" || { echo "mk-vm-image: apt knows no bookworm mirror on this machine" >&2; exit 1; }

# An initrd with just what this machine needs keeps the BIOS's share of the reading small.
mkdir -p "$work/hook"
cat > "$work/hook/initramfs.sh" <<'H'
set -e
mkdir -p "$1/etc/initramfs-tools/conf.d" "$1/etc/initramfs-tools/hooks"
printf 'MODULES=list\nCOMPRESS=gzip\n' > "$1/etc/initramfs-tools/conf.d/diskstream"
cat > "$1/etc/initramfs-tools/hooks/diskstream" <<'X'
#!/bin/sh
[ "$1" = prereqs ] && exit 0
. /usr/share/initramfs-tools/hook-functions
manual_add_modules virtio_pci virtio_blk ext4
X
chmod +x "$1/etc/initramfs-tools/hooks/diskstream"
H

mmdebstrap --quiet --mode=root --variant=minbase \
  --include=systemd,systemd-sysv,dbus,udev,kmod,procps,cron,linux-image-cloud-amd64,initramfs-tools \
  --aptopt='APT::Install-Recommends "false"' --aptopt='Acquire::Check-Valid-Until "false"' \
  --dpkgopt='path-exclude=/usr/share/doc/*' --dpkgopt='path-exclude=/usr/share/man/*' \
  --dpkgopt='path-exclude=/usr/share/locale/*' \
  --essential-hook="sh $work/hook/initramfs.sh \"\$1\"" \
  bookworm "$tree" "$sources"

echo dsvm > "$tree/etc/hostname"
printf '127.0.0.1 localhost dsvm\n' > "$tree/etc/hosts"
printf 'LABEL=dsroot / ext4 defaults 0 1\n' > "$tree/etc/fstab"
sed -i 's/^root:[^:]*:/root::/' "$tree/etc/shadow"
rm -f "$tree"/etc/apt/sources.list "$tree"/etc/apt/sources.list.d/* "$tree"/etc/resolv.conf
# A fixed identity: with an empty one the first boot would write to every corner of /etc.
echo 5f6469736b73747265616d5f766d3031 > "$tree/etc/machine-id"
# No network card, no clock to keep, no upgrade to run: timers would only add noise to a short life.
for t in apt-daily.timer apt-daily-upgrade.timer dpkg-db-backup.timer e2scrub_all.timer fstrim.timer; do
  ln -sf /dev/null "$tree/etc/systemd/system/$t"
done
cp "$tree"/boot/vmlinuz-* "$work/vmlinuz"
cp "$tree"/boot/initrd.img-* "$work/initrd.img"
rm -rf "$tree"/boot/* "$tree"/vmlinuz* "$tree"/initrd.img* "$tree"/var/lib/apt/lists/* "$tree"/var/cache/apt/*
# Half of the modules are for hardware that no virtual machine has.
rm -rf "$tree"/lib/modules/*/kernel/{sound,drivers/gpu,drivers/infiniband,drivers/media,drivers/net,net}
depmod -b "$tree" "$(basename "$tree"/lib/modules/*)"
# What the guest checks of what it read: every program and library by checksum.
(cd "$tree" && find usr/bin usr/sbin usr/lib/systemd usr/lib/x86_64-linux-gnu -xdev -type f -size +0 | sort \
  | xargs -d '\n' md5sum > "$work/manifest" && mv "$work/manifest" root/manifest.md5)

mib=1048576
fat_mib=63 root_mib=896
truncate -s $(((1 + fat_mib + root_mib + 1) * mib)) "$img"
sfdisk --quiet "$img" <<L
label: dos
label-id: 0xd15c57e4
start=1MiB, size=${fat_mib}MiB, type=c, bootable
start=$((1 + fat_mib))MiB, size=${root_mib}MiB, type=83
L
cat > "$work/syslinux.cfg" <<L
SERIAL 0 115200
DEFAULT debian
PROMPT 0
LABEL debian
  LINUX /vmlinuz
  INITRD /initrd.img
  APPEND root=LABEL=dsroot rw console=ttyS0,115200 panic=-1 quiet
L
export MTOOLSRC=$work/mtoolsrc
echo "drive z: file=\"$img\" offset=$mib mtools_skip_check=1" > "$MTOOLSRC"
truncate -s ${fat_mib}M "$work/fat"
mkfs.fat -F 16 -n DSBOOT -i d15c57e4 "$work/fat" > /dev/null
dd if="$work/fat" of="$img" bs=1M seek=1 conv=notrunc,sparse status=none
# The boot sector must say where the partition starts, or syslinux reads from the wrong place.
printf '\x00\x08\x00\x00' | dd of="$img" bs=1 seek=$((mib + 28)) conv=notrunc status=none
mcopy "$work/vmlinuz" z:vmlinuz
mcopy "$work/initrd.img" z:initrd.img
mcopy "$work/syslinux.cfg" z:syslinux.cfg
syslinux --install --offset $mib "$img"
dd if=/usr/lib/syslinux/mbr/mbr.bin of="$img" bs=440 count=1 conv=notrunc status=none
mke2fs -q -t ext4 -L dsroot -U d15c57e4-0000-4000-8000-000000000002 -m 0 -b 4096 \
  -E offset=$(((1 + fat_mib) * mib)),lazy_itable_init=0,lazy_journal_init=0 -d "$tree" "$img" ${root_mib}M
sync "$img"
mv "$img" "$out"
ls -ls "$out"
