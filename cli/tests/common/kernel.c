/* A kernel with nothing but what it hands over: enough for `gcc -gbtf`. Written from the facts of the ABI. */
typedef unsigned long long u64;
typedef unsigned int u32;
typedef int s32;
typedef unsigned short u16;
typedef unsigned char u8;
#define PACKED __attribute__((packed))
#define USED(type) struct type use_##type

struct kho_vmalloc_chunk;
struct kho_vmalloc_hdr { union { u64 phys; struct kho_vmalloc_chunk *ptr; } next; };
struct kho_vmalloc {
    union { u64 phys; struct kho_vmalloc_chunk *ptr; } first;
    unsigned int total_pages;
    unsigned short flags, order;
};
struct kho_block_header_ser { u64 next, count; } PACKED;
struct kho_kexec_metadata { u32 version; char previous_release[65]; u32 kexec_count; } PACKED;
struct kho_scratch { u64 addr, size; };
struct kho_data { u64 fdt_addr, fdt_size, scratch_addr, scratch_size; } PACKED;
struct setup_data { u64 next; u32 type, len; u8 data[]; };
struct boot_e820_entry { u64 addr, size; u32 type; } PACKED;

struct luo_ser { char compatible[8]; u64 liveupdate_num, sessions_pa, flbs_pa; } PACKED;
struct luo_file_ser { char compatible[48]; u64 data, token; } PACKED;
struct luo_file_set_ser { u64 files, count; } PACKED;
struct luo_session_ser { char name[64]; struct luo_file_set_ser file_set_ser; } PACKED;
struct luo_flb_header_ser { u64 pgcnt, count; } PACKED;
struct luo_flb_ser { char name[48]; u64 data, count; } PACKED;

#ifndef MOVED
struct memfd_luo_ser { const u64 pos; u64 size; u32 seals, flags; u64 nr_folios; struct kho_vmalloc folios; } PACKED;
#else
struct memfd_luo_ser { const u64 pos; u32 seals, flags; u64 size; u64 nr_folios; struct kho_vmalloc folios; } PACKED;
#endif
#ifndef BITS
struct memfd_luo_folio_ser { u64 pfn : 52, flags : 12; u64 index; } PACKED;
#else
struct memfd_luo_folio_ser { u64 pfn : 50, flags : 14; u64 index; } PACKED;
#endif

struct liveupdate_ioctl_create_session { u32 size; s32 fd; u8 name[64]; };
struct liveupdate_ioctl_retrieve_session { u32 size; s32 fd; u8 name[64]; };
struct liveupdate_session_preserve_fd { u32 size; s32 fd; u64 token; };
struct liveupdate_session_retrieve_fd { u32 size; s32 fd; u64 token; };
struct liveupdate_session_finish { u32 size, reserved; };

USED(kho_vmalloc_hdr); USED(kho_vmalloc); USED(kho_block_header_ser); USED(kho_kexec_metadata); USED(kho_scratch);
USED(kho_data); USED(setup_data); USED(boot_e820_entry); USED(luo_ser); USED(luo_file_ser); USED(luo_session_ser);
USED(luo_flb_header_ser); USED(luo_flb_ser); USED(memfd_luo_ser); USED(memfd_luo_folio_ser);
USED(liveupdate_ioctl_create_session); USED(liveupdate_ioctl_retrieve_session);
USED(liveupdate_session_preserve_fd); USED(liveupdate_session_retrieve_fd); USED(liveupdate_session_finish);

#ifdef UNKNOWN
struct vfio_luo_ser { u64 data; };
USED(vfio_luo_ser);
#endif
#ifdef MEMFD
const char root[] = "kho-v4", luo[] = "luo-v5", memfd[] = MEMFD;
#endif
