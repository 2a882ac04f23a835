# shellcheck shell=bash
# The guest that proves the cloud: the distribution's kernel and busybox, put together without a network,
# a boot loader or a mount. Nova boots a kernel and a ramdisk that are images of their own.

# Packages that are unpacked on this machine only: their names are asked of apt, relative to the image.
image_packages() { printf 'linux-image-cloud-%s\nbusybox-static\n' "$(dpkg --print-architecture)"; }

# Prints the directory that holds vmlinuz, initramfs and disk.
image_ensure() {
    local pool=$1 image
    image=$cache/guest-$({ basename "$pool"; cat "$here/lib/image.sh" "$here/guest/init"; } | digest_of)
    [ -e "$image/complete" ] || with_lock "$cache/guest.lock" image_build "$pool" "$image" >&2
    printf '%s\n' "$image"
}

image_build() {
    local pool=$1 image=$2 new=$2.new work deb module
    [ ! -e "$image/complete" ] || return 0
    rm -rf "$new"
    mkdir -p "$new"
    work=$(mktemp -d "$cache/guest.XXXXXX")
    # shellcheck disable=SC2064 # the names as they are now
    trap "rm -rf '$work' '$new'" EXIT
    mkdir -p "$work/packages" "$work/root/bin" "$work/root/lib" "$work/root/proc" "$work/root/sys" "$work/root/dev"
    for deb in "$pool"/guest/*.deb; do dpkg-deb -x "$deb" "$work/packages"; done
    cp "$(find "$work/packages/boot" -name 'vmlinuz-*' | sort | tail -n 1)" "$new/vmlinuz" || die 1 "there is no kernel in $pool/guest"
    install -m 755 "$(find "$work/packages" -path '*/bin/busybox' | sed -n 1p)" "$work/root/bin/busybox"
    install -m 755 "$here/guest/init" "$work/root/init"
    for module in virtio_ring virtio virtio_pci_modern_dev virtio_pci_legacy_dev virtio_pci failover net_failover virtio_net virtio_blk cdrom isofs; do
        find "$work/packages" -name "$module.ko" -exec cp {} "$work/root/lib/" \;
    done
    (cd "$work/root" && find . | "$work/root/bin/busybox" cpio -o -H newc 2>/dev/null | gzip -9n) >"$new/initramfs"
    # Nova wants a disk too; nothing is on it.
    truncate -s 1M "$new/disk"
    : >"$new/complete"
    rm -rf "$image"
    mv -T "$new" "$image"
    lap "test guest built ($(du -sm "$image" | cut -f1) MB)"
}
