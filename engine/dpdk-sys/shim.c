/* See shim.h. */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE /* fopencookie */
#endif
#include "shim.h"

#include <errno.h>
#include <stdio.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <rte_bus.h>
#include <rte_cycles.h>
#include <rte_interrupts.h>
#include <rte_log.h>
#include <rte_version.h>

#if RTE_VERSION < RTE_VERSION_NUM(22, 11, 0, 0)
#error "weir needs DPDK 22.11 or newer"
#endif

#define SAME_PLACE(ours, theirs)                                                                   \
	_Static_assert(offsetof(struct weir_mbuf, ours) == offsetof(struct rte_mbuf, theirs) &&    \
			       sizeof(((struct weir_mbuf *)0)->ours) ==                            \
				       sizeof(((struct rte_mbuf *)0)->theirs),                     \
		       "struct weir_mbuf: " #ours " does not match DPDK's headers")
SAME_PLACE(buf_addr, buf_addr);
SAME_PLACE(data_off, data_off);
SAME_PLACE(refcnt, refcnt);
SAME_PLACE(nb_segs, nb_segs);
SAME_PLACE(port, port);
SAME_PLACE(ol_flags, ol_flags);
SAME_PLACE(packet_type, packet_type);
SAME_PLACE(pkt_len, pkt_len);
SAME_PLACE(data_len, data_len);
SAME_PLACE(vlan_tci, vlan_tci);
SAME_PLACE(hash_rss, hash.rss);
SAME_PLACE(buf_len, buf_len);
SAME_PLACE(pool, pool);

int weir_errno(void)
{
	return rte_errno;
}

/* Standard output belongs to the program (replay prints JSON there), so logs never go to it. */
void weir_log_to_stderr(void)
{
	rte_openlog_stream(stderr);
}

static weir_log_line log_line;

static ssize_t log_write(void *unused, const char *text, size_t length)
{
	(void)unused;
	log_line((uint32_t)rte_log_cur_msg_loglevel(), text, length);
	return (ssize_t)length;
}

/* DPDK flushes after each message, so that a write is a message. 0, or -1 without a stream. */
int weir_log_to(weir_log_line line)
{
	cookie_io_functions_t functions = { .write = log_write };
	FILE *stream;

	log_line = line;
	stream = fopencookie(NULL, "w", functions);
	return stream == NULL ? -1 : rte_openlog_stream(stream);
}

static atomic_int parked;

static void park(void *unused)
{
	(void)unused;
	atomic_store(&parked, 1);
	for (;;)
		pause();
}

/*
 * Takes EAL's interrupt thread out of service for the rest of the process's life; 0 when it is.
 * rte_eal_cleanup unmaps EAL's memory while that thread may still walk its list of sources, whose
 * handles lie there: it crashes now and then once a driver (net_memif) has used interrupts. A
 * source of our own, ready from the start, has a callback that never returns. An alarm would not
 * do: the clean-up waits for the alarms' source to be idle. Handle and descriptor stay, on purpose.
 */
int weir_park_interrupt_thread(void)
{
	struct rte_intr_handle *handle = rte_intr_instance_alloc(RTE_INTR_INSTANCE_F_PRIVATE);
	int fd = eventfd(1, EFD_CLOEXEC | EFD_NONBLOCK);
	int ret, i;

	if (handle == NULL || fd < 0)
		return -ENOMEM;
	rte_intr_fd_set(handle, fd);
	rte_intr_type_set(handle, RTE_INTR_HANDLE_EXT);
	ret = rte_intr_callback_register(handle, park, NULL);
	if (ret < 0)
		return ret;
	for (i = 0; i < 2000 && !atomic_load(&parked); i++)
		rte_delay_us_sleep(500);
	return atomic_load(&parked) ? 0 : -ETIMEDOUT;
}

struct rte_mempool *weir_pool_create(const char *name, uint32_t buffers, uint32_t cache,
				     uint16_t data_room, int socket)
{
	struct rte_pktmbuf_pool_private room = {.mbuf_data_room_size = data_room};

	if (rte_eal_has_hugepages())
		return rte_pktmbuf_pool_create(name, buffers, cache, 0, data_room, socket);
	/*
	 * Without huge pages DPDK would let no buffer cross a page of 4 KiB, and leave the rest of each
	 * page empty. The AF_XDP driver tells the kernel of as much memory as the buffers take side by
	 * side: those beyond are refused one by one as they come round, until nothing can be received.
	 * No device reads such memory by physical address, so that buffers may cross pages.
	 */
	return rte_mempool_create(name, buffers, sizeof(struct rte_mbuf) + data_room, cache,
				  sizeof(room), rte_pktmbuf_pool_init, &room, rte_pktmbuf_init, NULL,
				  socket, RTE_MEMPOOL_F_NO_IOVA_CONTIG);
}

void weir_pool_free(struct rte_mempool *pool)
{
	rte_mempool_free(pool);
}

uint32_t weir_pool_available(const struct rte_mempool *pool)
{
	return rte_mempool_avail_count(pool);
}

uint32_t weir_pool_in_use(const struct rte_mempool *pool)
{
	return rte_mempool_in_use_count(pool);
}

struct weir_mbuf *weir_mbuf_alloc(struct rte_mempool *pool)
{
	return (struct weir_mbuf *)rte_pktmbuf_alloc(pool);
}

int weir_mbuf_alloc_bulk(struct rte_mempool *pool, struct weir_mbuf **into, uint32_t count)
{
	return rte_pktmbuf_alloc_bulk(pool, (struct rte_mbuf **)into, count);
}

void weir_mbuf_free(struct weir_mbuf *mbuf)
{
	rte_pktmbuf_free((struct rte_mbuf *)mbuf);
}

/* DPDK's own bulk free returns each segment to the pool it came from, mixed bursts included. */
void weir_mbuf_free_bulk(struct weir_mbuf **from, uint32_t count)
{
	rte_pktmbuf_free_bulk((struct rte_mbuf **)from, count);
}

static const char *device_name(const struct rte_eth_dev_info *info)
{
	return info->device != NULL ? rte_dev_name(info->device) : "";
}

/* By the port's name, then by the name of the device beneath it: drivers with several ports a
 * device, and some virtual ones, name the port differently. */
uint16_t weir_port_find(const char *device)
{
	struct rte_eth_dev_info info;
	uint16_t port;

	if (rte_eth_dev_get_port_by_name(device, &port) == 0)
		return port;
	RTE_ETH_FOREACH_DEV(port)
	{
		if (rte_eth_dev_info_get(port, &info) == 0 &&
		    strcmp(device_name(&info), device) == 0)
			return port;
	}
	return WEIR_NO_PORT;
}

int weir_port_info(uint16_t port, struct weir_port_info *out)
{
	struct rte_eth_dev_info info;
	struct rte_ether_addr mac;
	const struct rte_bus *bus;
	int ret = rte_eth_dev_info_get(port, &info);

	if (ret != 0)
		return ret;
	memset(out, 0, sizeof(*out));
	snprintf(out->driver, sizeof(out->driver), "%s", info.driver_name ? info.driver_name : "");
	snprintf(out->device, sizeof(out->device), "%s", device_name(&info));
	ret = rte_eth_macaddr_get(port, &mac);
	if (ret != 0)
		return ret;
	memcpy(out->mac, mac.addr_bytes, sizeof(out->mac));
	out->max_rx_queues = info.max_rx_queues;
	out->max_tx_queues = info.max_tx_queues;
	out->min_mtu = info.min_mtu;
	out->max_mtu = info.max_mtu;
	out->reta_size = info.reta_size;
	out->rss_key_size = info.hash_key_size;
	out->rss_types = info.flow_type_rss_offloads;
	bus = info.device != NULL ? rte_dev_bus(info.device) : NULL;
	out->is_pci = bus != NULL && strcmp(rte_bus_name(bus), "pci") == 0;
	return 0;
}

int weir_port_configure(uint16_t port, struct weir_port_settings *settings)
{
	const uint64_t wanted = RTE_ETH_RSS_IP | RTE_ETH_RSS_TCP | RTE_ETH_RSS_UDP;
	struct rte_eth_conf conf;
	struct rte_eth_dev_info info;
	int ret = rte_eth_dev_info_get(port, &info);

	if (ret != 0)
		return ret;
	memset(&conf, 0, sizeof(conf));
	conf.rxmode.mq_mode = RTE_ETH_MQ_RX_NONE;
	conf.txmode.mq_mode = RTE_ETH_MQ_TX_NONE;
	if (settings->rss_key_length != 0) {
		conf.rxmode.mq_mode = RTE_ETH_MQ_RX_RSS;
		conf.rx_adv_conf.rss_conf.rss_key = settings->rss_key;
		conf.rx_adv_conf.rss_conf.rss_key_len = settings->rss_key_length;
		conf.rx_adv_conf.rss_conf.rss_hf = wanted & info.flow_type_rss_offloads;
	}
	ret = rte_eth_dev_configure(port, settings->queues, settings->queues, &conf);
	if (ret != 0)
		return ret;
	return rte_eth_dev_adjust_nb_rx_tx_desc(port, &settings->rx_descriptors,
						&settings->tx_descriptors);
}

/* NULL for the queue's own settings: the driver's default thresholds, no offloads. */
int weir_rx_queue_setup(uint16_t port, uint16_t queue, uint16_t descriptors,
			struct rte_mempool *pool)
{
	return rte_eth_rx_queue_setup(port, queue, descriptors,
				      (unsigned int)rte_eth_dev_socket_id(port), NULL, pool);
}

int weir_tx_queue_setup(uint16_t port, uint16_t queue, uint16_t descriptors)
{
	return rte_eth_tx_queue_setup(port, queue, descriptors,
				      (unsigned int)rte_eth_dev_socket_id(port), NULL);
}

int weir_port_set_mac(uint16_t port, const uint8_t mac[6])
{
	struct rte_ether_addr address;

	memcpy(address.addr_bytes, mac, sizeof(address.addr_bytes));
	return rte_eth_dev_default_mac_addr_set(port, &address);
}

/* Entry i leads to queue i modulo the number of queues. */
int weir_port_set_reta(uint16_t port, uint16_t reta_size, uint16_t queues)
{
	struct rte_eth_rss_reta_entry64 table[RTE_ETH_RSS_RETA_SIZE_512 / RTE_ETH_RETA_GROUP_SIZE];
	uint16_t i;

	if (reta_size > RTE_ETH_RSS_RETA_SIZE_512 || queues == 0)
		return -ENOTSUP;
	memset(table, 0, sizeof(table));
	for (i = 0; i < reta_size; i++) {
		struct rte_eth_rss_reta_entry64 *group = &table[i / RTE_ETH_RETA_GROUP_SIZE];

		group->mask |= UINT64_C(1) << (i % RTE_ETH_RETA_GROUP_SIZE);
		group->reta[i % RTE_ETH_RETA_GROUP_SIZE] = i % queues;
	}
	return rte_eth_dev_rss_reta_update(port, table, reta_size);
}

int weir_port_statistics(uint16_t port, struct weir_port_statistics *out)
{
	struct rte_eth_stats stats;
	int ret = rte_eth_stats_get(port, &stats);

	if (ret != 0)
		return ret;
	out->ipackets = stats.ipackets;
	out->ibytes = stats.ibytes;
	out->imissed = stats.imissed;
	out->ierrors = stats.ierrors;
	out->rx_nombuf = stats.rx_nombuf;
	out->opackets = stats.opackets;
	out->obytes = stats.obytes;
	out->oerrors = stats.oerrors;
	return 0;
}

int weir_port_link(uint16_t port, struct weir_link *out)
{
	struct rte_eth_link link;
	int ret = rte_eth_link_get_nowait(port, &link);

	if (ret != 0)
		return ret;
	out->speed_mbps = link.link_speed;
	out->up = link.link_status == RTE_ETH_LINK_UP;
	out->full_duplex = link.link_duplex == RTE_ETH_LINK_FULL_DUPLEX;
	return 0;
}

/* Stops and closes; what the driver still holds goes back to its pools. A device that was plugged
 * in at run time is unplugged again, so that it can be opened once more. */
int weir_port_close(uint16_t port, int unplug)
{
	struct rte_eth_dev_info info;
	struct rte_device *device = NULL;
	int stopped, closed;

	if (rte_eth_dev_info_get(port, &info) == 0)
		device = info.device;
	stopped = rte_eth_dev_stop(port);
	closed = rte_eth_dev_close(port);
	if (unplug && device != NULL)
		rte_dev_remove(device);
	return stopped != 0 ? stopped : closed;
}

uint16_t weir_rx_burst(uint16_t port, uint16_t queue, struct weir_mbuf **into, uint16_t count)
{
	return rte_eth_rx_burst(port, queue, (struct rte_mbuf **)into, count);
}

uint16_t weir_tx_burst(uint16_t port, uint16_t queue, struct weir_mbuf **from, uint16_t count)
{
	return rte_eth_tx_burst(port, queue, (struct rte_mbuf **)from, count);
}
