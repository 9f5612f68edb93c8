/*
 * What weir needs of DPDK, in one place: static-inline functions behind real symbols, and small flat
 * structs in place of DPDK's large ones. Differences between DPDK releases stay here, so that the
 * Rust side sees one API. Every name has our own prefix.
 */
#ifndef WEIR_SHIM_H
#define WEIR_SHIM_H

#include <stddef.h>
#include <stdint.h>

#include <rte_dev.h>
#include <rte_eal.h>
#include <rte_errno.h>
#include <rte_ethdev.h>
#include <rte_lcore.h>
#include <rte_mbuf.h>
#include <rte_mempool.h>

#define WEIR_NAME_SIZE 64
#define WEIR_RSS_KEY_MAX 64
static const uint16_t WEIR_NO_PORT = UINT16_MAX;
static const uint16_t WEIR_HEADROOM = RTE_PKTMBUF_HEADROOM;
static const uint32_t WEIR_POOL_CACHE_MAX = RTE_MEMPOOL_CACHE_MAX_SIZE;
static const uint32_t WEIR_POOL_NAME_MAX = RTE_MEMPOOL_NAMESIZE - 1;

/*
 * The first cache line of struct rte_mbuf, field by field. shim.c asserts that every offset is that
 * of the installed headers; Rust reads and writes these fields without a call.
 */
struct weir_mbuf {
	void *buf_addr;
	uint64_t buf_iova;
	uint16_t data_off;
	uint16_t refcnt;
	uint16_t nb_segs;
	uint16_t port;
	uint64_t ol_flags;
	uint32_t packet_type;
	uint32_t pkt_len;
	uint16_t data_len;
	uint16_t vlan_tci;
	uint32_t hash_rss;
	uint32_t hash_high;
	uint16_t vlan_tci_outer;
	uint16_t buf_len;
	struct rte_mempool *pool;
};

/* Process */
int weir_errno(void);
void weir_log_to_stderr(void);
/* Takes what DPDK logs: its level (RTE_LOG_*) and text, not NUL-terminated. */
typedef void (*weir_log_line)(uint32_t level, const char *text, size_t length);
int weir_log_to(weir_log_line line);
int weir_park_interrupt_thread(void);

/* Pools and mbufs */
struct rte_mempool *weir_pool_create(const char *name, uint32_t buffers, uint32_t cache,
				     uint16_t data_room, int socket);
void weir_pool_free(struct rte_mempool *pool);
uint32_t weir_pool_available(const struct rte_mempool *pool);
uint32_t weir_pool_in_use(const struct rte_mempool *pool);
struct weir_mbuf *weir_mbuf_alloc(struct rte_mempool *pool);
int weir_mbuf_alloc_bulk(struct rte_mempool *pool, struct weir_mbuf **into, uint32_t count);
void weir_mbuf_free(struct weir_mbuf *mbuf);
void weir_mbuf_free_bulk(struct weir_mbuf **from, uint32_t count);

/* Ports */
struct weir_port_info {
	char driver[WEIR_NAME_SIZE];
	char device[WEIR_NAME_SIZE];
	uint8_t mac[6];
	uint16_t max_rx_queues;
	uint16_t max_tx_queues;
	uint16_t min_mtu;
	uint16_t max_mtu;
	uint16_t reta_size;
	uint8_t rss_key_size;
	uint64_t rss_types;
	int is_pci;
};

struct weir_port_settings {
	uint16_t queues;
	uint16_t rx_descriptors; /* in: wanted; out: as adjusted to the device's limits */
	uint16_t tx_descriptors; /* in: wanted; out: as adjusted to the device's limits */
	uint8_t rss_key_length;  /* 0: no RSS */
	uint8_t rss_key[WEIR_RSS_KEY_MAX];
};

struct weir_port_statistics {
	uint64_t ipackets;
	uint64_t ibytes;
	uint64_t imissed;
	uint64_t ierrors;
	uint64_t rx_nombuf;
	uint64_t opackets;
	uint64_t obytes;
	uint64_t oerrors;
};

struct weir_link {
	uint32_t speed_mbps; /* UINT32_MAX: not known */
	uint8_t up;
	uint8_t full_duplex;
};

uint16_t weir_port_find(const char *device);
int weir_port_info(uint16_t port, struct weir_port_info *info);
int weir_port_configure(uint16_t port, struct weir_port_settings *settings);
int weir_rx_queue_setup(uint16_t port, uint16_t queue, uint16_t descriptors,
			struct rte_mempool *pool);
int weir_tx_queue_setup(uint16_t port, uint16_t queue, uint16_t descriptors);
int weir_port_set_mac(uint16_t port, const uint8_t mac[6]);
int weir_port_set_reta(uint16_t port, uint16_t reta_size, uint16_t queues);
int weir_port_statistics(uint16_t port, struct weir_port_statistics *statistics);
int weir_port_link(uint16_t port, struct weir_link *link);
int weir_port_close(uint16_t port, int unplug);
uint16_t weir_rx_burst(uint16_t port, uint16_t queue, struct weir_mbuf **into, uint16_t count);
uint16_t weir_tx_burst(uint16_t port, uint16_t queue, struct weir_mbuf **from, uint16_t count);

#endif
