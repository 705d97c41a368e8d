import socket, struct, time, threading, select, os
class Sym(str): pass
class Rec:
    def __init__(s,l,*f): s.l=l; s.f=f
class Emb:
    def __init__(s,v): s.v=v
def vi(n):
    o=b''
    while n>=128: o+=bytes([n&127|128]); n>>=7
    return o+bytes([n])
def enc(v):
    if v is False: return b'\x80'
    if v is True: return b'\x81'
    if isinstance(v,int):
        if v==0: return b'\xb0\x00'
        n=(v.bit_length()+8)//8 if v>0 else ((-v-1).bit_length()+8)//8
        return b'\xb0'+vi(n)+v.to_bytes(n,'big',signed=True)
    if isinstance(v,Sym): b=v.encode(); return b'\xb3'+vi(len(b))+b
    if isinstance(v,str): b=v.encode(); return b'\xb1'+vi(len(b))+b
    if isinstance(v,bytes): return b'\xb2'+vi(len(v))+v
    if isinstance(v,Rec): return b'\xb4'+enc(Sym(v.l))+b''.join(map(enc,v.f))+b'\x84'
    if isinstance(v,list): return b'\xb5'+b''.join(map(enc,v))+b'\x84'
    if isinstance(v,set): return b'\xb6'+b''.join(sorted(map(enc,v)))+b'\x84'
    if isinstance(v,dict): return b'\xb7'+b''.join(k+x for k,x in sorted((enc(k),enc(x)) for k,x in v.items()))+b'\x84'
    if isinstance(v,Emb): return b'\x86'+enc(v.v)
    raise TypeError(v)
RES=lambda: enc([[0,Rec('A',Rec('resolve',Rec('ref',{Sym('oid'):'syndicate',Sym('sig'):bytes.fromhex('69ca300c1dbfa08fba692102dd82311a')}),Emb([0,0])),1)]])
BIND=Rec('bind',Rec('_'))
def rec(label,n): return Rec('group',Rec('rec',Sym(label)),{i:BIND for i in range(n)})
def obs(p,o,h): return [1,Rec('A',Rec('Observe',p,Emb([0,o])),h)]
def msg(v,oid=1): return [oid,Rec('M',v)]
def asr(v,h,oid=1): return [oid,Rec('A',v,h)]
def ret(h,oid=1): return [oid,Rec('R',h)]
def conn(port,rcv=None,src=None,nodelay=True):
    s=socket.socket()
    if rcv: s.setsockopt(socket.SOL_SOCKET,socket.SO_RCVBUF,rcv)
    if src: s.bind((src,0))
    s.connect(('127.0.0.1',port))
    if nodelay: s.setsockopt(socket.IPPROTO_TCP,socket.TCP_NODELAY,1)
    return s
def resolved(port,**k):
    s=conn(port,**k); s.sendall(RES()); s.settimeout(20); s.recv(100); return s
def rss(pid):
    for l in open(f'/proc/{pid}/status'):
        if l.startswith('VmRSS'): return int(l.split()[1])//1024
class Innocents(threading.Thread):
    """A pair: latency in ms, and that nothing is lost."""
    def __init__(s,port,src=None):
        super().__init__(daemon=True); s.stop=False; s.worst=0; s.n=0; s.bad=None
        s.c=resolved(port,src=src); s.c.sendall(enc([obs(rec('innocent',1),7,2)])); s.p=resolved(port,src=src); time.sleep(.1)
        s.lat=[]
    def run(s):
        try:
            while not s.stop:
                t=time.time(); s.p.sendall(enc([msg(Rec('innocent',s.n))]))
                want=enc([[7,Rec('M',[s.n])]]); got=b''
                s.c.settimeout(60)
                while len(got)<len(want):
                    b=s.c.recv(len(want)-len(got))
                    if not b: raise Exception('ended')
                    got+=b
                if got!=want: raise Exception(f'{got} {want}')
                d=(time.time()-t)*1000; s.lat.append(d); s.worst=max(s.worst,d); s.n+=1
                time.sleep(.001)
        except Exception as e: s.bad=repr(e)
    def report(s):
        l=sorted(s.lat) or [0]
        r=f'innocents n={s.n} p50={l[len(l)//2]:.2f} p99={l[len(l)*99//100]:.2f} worst={s.worst:.1f} ms bad={s.bad}'
        s.lat=[]; s.worst=0; return r
