// The init of the arm64 guest: takes the sessions that the file /plan names out of /dev/liveupdate, and says what it
// finds in each file. Built when the test runs, because there is no Rust standard library for arm64 in a usual checkout.
//
// First it says what the kernel exports in debugfs. A device that cannot be opened is tried twice.
//
// Lines of /plan: `memory ADDRESS SIZE` (what is there is hashed), `session NAME`, then for each of its files
// `file TOKEN`; numbers are hexadecimal. With /kernel and /initrd, all of it is preserved again, and the kernel is
// replaced.
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/reboot.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#define DEBUGFS "/sys/kernel/debug"
#define CREATE_SESSION 0xba00
#define RETRIEVE_SESSION 0xba01
#define PRESERVE_FD 0xba40
#define RETRIEVE_FD 0xba41
#define FINISH 0xba42
#define GET_NAME 0xba43

struct by_name {
	uint32_t size;
	int32_t fd;
	char name[64];
};

struct by_token {
	uint32_t size;
	int32_t fd;
	uint64_t token;
};

struct finish {
	uint32_t size;
	uint32_t reserved;
};

struct file {
	uint64_t token;
	int fd;
};

struct session {
	char name[64];
	int fd;
	int count;
	struct file files[256];
};

static struct session sessions[64];
static int count;

/* Through the kernel's log, so that its own lines are not in the midst of ours. */
static void say(const char *format, ...)
{
	static int log = -1;
	char line[900] = "guest: ";
	va_list args;
	if (log < 0)
		log = open("/dev/kmsg", O_WRONLY);
	va_start(args, format);
	int len = vsnprintf(line + 7, sizeof(line) - 7, format, args);
	va_end(args);
	if (len < 0 || len >= (int)sizeof(line) - 8)
		abort();
	line[len + 7] = '\n';
	if (write(log, line, len + 8) != len + 8)
		abort();
}

static void end(void)
{
	reboot(RB_AUTOBOOT);
	for (;;)
		pause();
}

static void fail(const char *what)
{
	say("FAIL %s: %s", what, strerror(errno));
	end();
}

static uint64_t hash(uint64_t hash, const unsigned char *bytes, size_t len)
{
	for (size_t at = 0; at < len; at++)
		hash = (hash ^ bytes[at]) * 0x100000001b3;
	return hash;
}

#define EMPTY 0xcbf29ce484222325

static void say_memory(uint64_t address, uint64_t size)
{
	int fd = open("/dev/mem", O_RDONLY);
	void *bytes = fd < 0 ? MAP_FAILED : mmap(NULL, size, PROT_READ, MAP_SHARED, fd, address);
	if (bytes == MAP_FAILED)
		fail("/dev/mem");
	say("memory %llx %016llx", (unsigned long long)address,
	       (unsigned long long)hash(EMPTY, bytes, size));
	munmap(bytes, size);
	close(fd);
}

static void say_file(const struct session *session, const struct file *file)
{
	static unsigned char piece[1 << 16];
	struct stat stat;
	char data[512];
	int fd = file->fd, seals = fcntl(fd, F_GET_SEALS);
	off_t pos = lseek(fd, 0, SEEK_CUR);
	uint64_t sum = EMPTY;
	if (fstat(fd, &stat) || seals < 0 || pos < 0)
		fail("fstat");
	for (off_t at = 0; at < stat.st_size;) {
		ssize_t got = pread(fd, piece, sizeof(piece), at);
		if (got <= 0)
			fail("pread");
		sum = hash(sum, piece, got);
		at += got;
	}
	size_t len = 0;
	data[0] = 0;
	for (off_t at = 0; (at = lseek(fd, at, SEEK_DATA)) >= 0 && len < sizeof(data);) {
		off_t hole = lseek(fd, at, SEEK_HOLE);
		len += snprintf(data + len, sizeof(data) - len, "%llx-%llx,", (unsigned long long)at,
				(unsigned long long)hole);
		at = hole;
	}
	say("file %s/%llx size=%llx pos=%llx seals=%x mode=%o sum=%016llx data=%s", session->name,
	    (unsigned long long)file->token, (unsigned long long)stat.st_size, (unsigned long long)pos, seals,
	    stat.st_mode & 0777, (unsigned long long)sum, data);
	if (lseek(fd, pos, SEEK_SET) != pos)
		fail("lseek");
}

static void retrieve(int device, struct session *session)
{
	struct by_name name = { .size = sizeof(name) };
	strcpy(name.name, session->name);
	if (ioctl(device, RETRIEVE_SESSION, &name))
		fail(session->name);
	session->fd = name.fd;
	memset(name.name, 'x', sizeof(name.name));
	name.fd = 0;
	if (ioctl(session->fd, GET_NAME, &name) || strcmp(name.name, session->name))
		fail("name");
	for (int at = 0; at < session->count; at++) {
		struct by_token token = { .size = sizeof(token), .fd = -1, .token = session->files[at].token };
		if (ioctl(session->fd, RETRIEVE_FD, &token))
			fail("retrieve");
		session->files[at].fd = token.fd;
		say_file(session, &session->files[at]);
	}
}

static void finish_session(struct session *session)
{
	struct finish finish = { .size = sizeof(finish) };
	if (ioctl(session->fd, FINISH, &finish))
		fail("finish");
	close(session->fd);
}

static void preserve(int device, struct session *session)
{
	struct by_name name = { .size = sizeof(name), .fd = -1 };
	strcpy(name.name, session->name);
	if (ioctl(device, CREATE_SESSION, &name))
		fail("create");
	for (int at = 0; at < session->count; at++) {
		struct by_token token = { .size = sizeof(token), .fd = session->files[at].fd,
					  .token = session->files[at].token };
		if (ioctl(name.fd, PRESERVE_FD, &token))
			fail("preserve");
	}
}

/* What it was handed; and what it hands over, which it exports as a whole after a cold boot only. */
static void say_exported(void)
{
	const char *halves[] = { "in", "out" };
	char path[64];
	for (int at = 0; at < 2; at++) {
		snprintf(path, sizeof(path), DEBUGFS "/kho/%s/fdt", halves[at]);
		say("%s/fdt %s", halves[at], access(path, F_OK) ? "absent" : "there");
	}
}

static void say_symbol(const char *symbol)
{
	FILE *symbols = fopen("/proc/kallsyms", "r");
	char line[512], name[256], kind;
	unsigned long long address;
	while (symbols && fgets(line, sizeof(line), symbols))
		if (sscanf(line, "%llx %c %255s", &address, &kind, name) == 3 && !strcmp(name, symbol))
			say("%s %llx", symbol, address);
	if (symbols)
		fclose(symbols);
}

static void replace_kernel(int kernel, int initrd)
{
	const char *line = "console=ttyAMA0 panic=-1 kho=on liveupdate=on reserve_mem=1M:65536:testmem printk.devkmsg=on";
	if (syscall(SYS_kexec_file_load, kernel, initrd, strlen(line) + 1, line, 0))
		fail("kexec_file_load");
	// So that the host can stop the machine there, before the tree of the next handover is overwritten.
	say_symbol("machine_kexec");
	getchar();
	syscall(SYS_reboot, 0xfee1dead, 0x28121969, 0x45584543, NULL);
	fail("reboot");
}

int main(void)
{
	char line[256], rest[128];
	unsigned long long number, size;
	mkdir("/proc", 0755);
	mount("proc", "/proc", "proc", 0, NULL);
	mount("dev", "/dev", "devtmpfs", 0, NULL);
	mkdir("/sys", 0755);
	mount("sys", "/sys", "sysfs", 0, NULL);
	mount("debug", DEBUGFS, "debugfs", 0, NULL);
	say_exported();
	int device = open("/dev/liveupdate", O_RDWR);
	if (device < 0) {
		say("open: %s", strerror(errno));
		device = open("/dev/liveupdate", O_RDWR);
	}
	if (device < 0)
		fail("/dev/liveupdate");
	FILE *plan = fopen("/plan", "r");
	while (plan && fgets(line, sizeof(line), plan)) {
		line[strcspn(line, "\n")] = 0;
		if (sscanf(line, "memory %llx %llx", &number, &size) == 2) {
			say_memory(number, size);
		} else if (sscanf(line, "file %llx", &number) == 1) {
			struct session *session = &sessions[count - 1];
			session->files[session->count++].token = number;
		} else if (sscanf(line, "session %127[^\n]", rest) == 1) {
			strcpy(sessions[count++].name, rest);
		}
	}
	for (int at = 0; at < count; at++)
		retrieve(device, &sessions[at]);
	for (int at = 0; at < count; at++)
		finish_session(&sessions[at]);
	say("ok finished");
	int kernel = open("/kernel", O_RDONLY), initrd = open("/initrd", O_RDONLY);
	if (kernel >= 0) {
		for (int at = 0; at < count; at++)
			preserve(device, &sessions[at]);
		say("ok preserved");
		replace_kernel(kernel, initrd);
	}
	say("done");
	end();
}
